"""What a distillation step costs, and what devices could do: for the benchmark `step.py`."""

from step_rows import Row, Sizes

# 10⁹ operations a second of dense matrix products, by data sheet
PEAK = {
    "H100": {"float32": 67e3, "tf32": 494e3, "bfloat16": 989e3},
    "H200": {"float32": 67e3, "tf32": 494e3, "bfloat16": 989e3},
    "A100": {"float32": 19.5e3, "tf32": 156e3, "bfloat16": 312e3},
}


def peak(device: str, precision: str) -> float | None:
    """That of the device whose name holds a known one, or None."""
    return next((rates[precision] for name, rates in PEAK.items() if name in device), None)


def gflop(sizes: Sizes, row: Row, batch: int) -> float:
    """10⁹ floating-point operations of the matrix products of a row's step, 2 for each
    multiply-add.

    A backward pass counts twice its forward pass; attention counts all pairs of tokens, masked
    ones too. Not counted, about a hundredth: embeddings and the teacher's output layer, what is
    done to single numbers, Gaussians, random numbers, Adam.
    """
    s, windows, places = sizes, batch, row.places(sizes)
    queries, states = s.experts * s.samples, s.goal_length + s.window

    def blocks(width, depth, tokens, seen, ask=None):
        """Of one sequence whose tokens attend to `seen` each, `ask` of them through the last
        block, where of the others come keys and values (and queries, in one product)."""
        ask = tokens if ask is None else ask
        return ((depth - 1) * tokens + ask) * (24 * width**2 + 4 * seen * width) + (
            (tokens - ask) * 6 * width**2)

    d, depth = s.teacher_width, s.teacher_depth
    tokens = 1 + states + s.window
    if row.module == "published_torch":
        teacher = queries * blocks(d, depth, tokens, tokens)
    elif row.joint:  # what comes before the first action is shared
        shared = 2 + s.goal_length
        teacher = blocks(d, depth, shared, shared, 0) + (
            queries * blocks(d, depth, tokens - shared, tokens, s.window))
    else:  # all but the newest action, and a token for every sample
        teacher = blocks(d, depth, tokens - 1, tokens - 1, 0) + (
            queries * places * blocks(d, depth, 1, tokens))
    teacher *= windows
    d, h = s.student_width, s.head_width
    head = 2 * (d * h + 2 * h * h + h * (s.action_dim + s.action_dim * (s.action_dim + 1) // 2))
    asked = states if row.module == "published_torch" else places
    student = windows * (blocks(d, s.student_depth, states, states, asked)
                         + places * s.experts * head)
    widths = [d, *[s.gating_width] * s.gating_depth, s.experts]
    gating = windows * places * sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))
    if row.module == "published_torch" or row.joint:  # the gating has a pass of its own
        return (teacher + 4 * student + 4 * gating) / 1e9
    return (teacher + 3 * student + 3 * gating) / 1e9
