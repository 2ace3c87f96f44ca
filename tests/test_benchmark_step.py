"""The benchmark of a step, at tiny sizes: its rows compute what they say, and it runs. No times."""

import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuda_program import lowered_for

from vdd_jax import teachers
from vdd_jax.core import objectives
from vdd_jax.core.mixture import Mixture

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
import step  # noqa: E402
import step_cost  # noqa: E402
import step_jax  # noqa: E402

TINY = step.Sizes(
    observation_dim=5, action_dim=3, window=3, goal_length=2, experts=2, samples=2,
    teacher_width=8, teacher_depth=2, teacher_heads=2, student_width=8, student_depth=1,
    student_heads=2, head_width=6, gating_width=7, gating_depth=1)


@pytest.fixture
def published():
    """The PyTorch side, seeded."""
    torch = pytest.importorskip("torch")
    import published_torch

    torch.manual_seed(0)
    return published_torch


def shapes(how="joint", sizes=TINY, windows=2, precision="float32"):
    """Shapes of (state, inputs) and the step that takes them; nothing is compiled."""
    start, start_teacher, make = step_jax.programs(
        step_jax.configure(sizes, how, windows, precision), sizes)
    state, params = (jax.eval_shape(of, jax.random.key(0)) for of in (start, start_teacher))
    return (state, (step_jax.random_windows(sizes, 16), params)), make()


# ---- the whole command

def test_every_row_has_a_line_in_table_and_record(tmp_path, capsys, monkeypatch):
    """JAX's rows run; PyTorch's too or say why not; ratios are there when PyTorch is."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    sizes = TINY._replace(action_dim=2, window=2, samples=1, teacher_depth=1, dropout=0.0)
    given = ",".join(f"{name}={value}" for name, value in sizes._asdict().items())
    out = tmp_path / "new" / "step.json"
    threads = min(2, len(os.sched_getaffinity(0)))  # programs are compiled side by side
    assert step.main(["--batches=3", f"--threads={threads}", "--rounds=2", "--each=1",
                      f"--sizes={given}", f"--out={out}"]) == 0
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    (case,) = record["cases"]
    assert (case["batch"], case["experts"], case["precision"]) == (3, 4, "float32")
    rows = case["rows"]
    assert list(rows) == list(step.ROWS)
    for name, row in rows.items():
        assert row["title"] in printed and f"{row['title']}: " in " ".join(record["notes"])
        assert (name in ("eager", "compile")) == ("xla_gflop" not in row)
    for name in ("joint", "all", "slices", "last"):
        row = rows[name]
        middle, least, most = row["ms"]
        assert 0 < least <= middle <= most and 0 < row["arrays_mib"] < row["peak_mib"]
        assert row["windows_per_s"] == pytest.approx(3e3 / middle, rel=1e-2)
        assert row["us_per_action"] == pytest.approx(1e3 * middle / row["actions"], rel=1e-3)
        assert {"jax", "flax"} <= set(row["versions"])
    assert [rows[n]["actions"] for n in rows] == [6, 6, 6, 6, 6, 3]
    try:
        import torch  # noqa: F401
    except ImportError:
        assert rows["eager"]["skipped"] == rows["compile"]["skipped"] == "torch is not installed"
    else:
        assert "no C++ compiler" in rows["compile"]["skipped"]
        assert rows["eager"]["step_of_eager"] == [1, 1, 1]
        assert rows["last"]["action_of_eager"][0] == pytest.approx(
            2 * rows["last"]["step_of_eager"][0], abs=2e-3)  # both are rounded
        assert 0 < rows["eager"]["arrays_mib"] < rows["eager"]["peak_mib"]
    assert "PyTorch, compiled: skipped: " in printed


def test_a_worker_that_fails_has_its_reason_in_the_table(monkeypatch, tmp_path):
    """The reason is in its row, and the command's exit status tells."""
    broken = step.ROWS["joint"]._replace(module="no_such_module")
    monkeypatch.setattr(step, "ROWS", {"joint": broken})
    out = tmp_path / "step.json"
    assert step.main(["--batches=2", "--threads=1", f"--out={out}"]) == 1
    row = json.loads(out.read_text())["cases"][0]["rows"]["joint"]
    assert row["failed"] == "no_such_module is not installed"


def test_rows_without_their_device_are_skipped(capsys, monkeypatch):
    """And that is no failure."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert step.main(["--batches=2", "--threads=1", "--device=cuda", "--rows=joint"]) == 0
    assert "JAX, joint: skipped: JAX sees no CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--rows=eagre", "--sizes=widht=3", "--threads=100000",
                                    "--precisions=float16"])
def test_wrong_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        step.parse([option])
    assert option.split("=")[1] in capsys.readouterr().err


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in one round changes no ratio."""
    facts = {"facts": {}, "peak_mib": 1.0, "busy": [1.0, 2.0]}
    found = {"eager": {**facts, "ms": [[2.0, 9.0, 2.0], [4.0, 4.0, 1.0]]},
             "last": {**facts, "ms": [[1.0, 1.0, 7.0], [2.0, 2.0, 2.0]]}}
    result = step.summary(found, TINY, 4)
    assert result["eager"]["ms"] == [3.0, 2.0, 4.0]
    assert result["last"]["step_of_eager"] == [0.5, 0.5, 0.5]
    assert result["last"]["action_of_eager"] == [1.5, 1.5, 1.5]  # one action where eager has 3
    assert result["last"]["us_per_action"] == pytest.approx(1500 / 4)
    assert result["last"]["busy_cores"] == 1.5


@pytest.mark.parametrize(("precision", "kernel"), [("bfloat16", True), ("float32", False)])
def test_the_step_becomes_a_cuda_program(precision, kernel):
    """Without a GPU to run it on; in bfloat16 with the kernel of `models/short_attention.py`."""
    given, one = shapes("all", precision=precision)
    program = lowered_for(jax.jit(one).trace(*given, jax.random.key(0)), "cuda")
    assert ("triton" in program) == kernel


def test_slices_are_of_32_windows():
    """One at least."""
    for windows, slices in ((16, 1), (64, 2), (256, 8)):
        config = step_jax.configure(TINY, step.ROWS["slices"].how, windows)
        assert (config.run.accumulate, config.distill.window) == (slices, "all")


# ---- the count of operations

WIDE = TINY._replace(teacher_width=64, student_width=48, teacher_heads=4, head_width=40)


def products(jaxpr, dtypes=("float32", "bfloat16")) -> float:
    """Operations of all matrix products of a program that are in one of `dtypes`."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and (
                equation.invars[0].aval.dtype.name in dtypes):
            (summed, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * np.prod([left[i] for i in summed]) * equation.outvars[0].aval.size
        inner = [p for p in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program)
                 if is_program(p)]
        counted = [products(getattr(p, "jaxpr", p), dtypes) for p in inner]
        if counted:  # of the branches of a condition the dearest one runs
            total += max(counted) if equation.primitive.name == "cond" else sum(counted)
    return total


def is_program(value) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


@pytest.mark.parametrize("row", ["joint", "all", "last"])
def test_operations_of_jax_rows_are_those_of_their_program(row):
    """But for the products of small matrices in Gaussians."""
    row = step.ROWS[row]
    arguments, run = shapes(row.how, WIDE, 4)
    counted = products(jax.make_jaxpr(run)(*arguments, jax.random.key(0)).jaxpr)
    assert step_cost.gflop(WIDE, row, 4) == pytest.approx(counted / 1e9, rel=0.02)


def test_operations_of_pytorch_are_what_its_own_counter_sees(published):
    from torch.utils.flop_counter import FlopCounterMode

    one = published.Step(WIDE, 4, "cpu", "float32", False)
    with FlopCounterMode(display=False) as counter:
        one()
    counted = counter.get_total_flops() / 1e9
    assert step_cost.gflop(WIDE, step.ROWS["eager"], 4) == pytest.approx(counted, rel=0.02)


def test_jax_rows_compute_in_the_precision_that_is_asked_for():
    """All but the products of small matrices in bfloat16, parameters in float32."""
    (state, inputs), run = shapes("joint", WIDE, 4, "bfloat16")
    program = jax.make_jaxpr(run)(state, inputs, jax.random.key(0)).jaxpr
    assert products(program, ("float32",)) < 0.02 * products(program)
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(state.params))


# ---- PyTorch computes what this library computes

def test_networks_have_equal_parameter_counts(published):
    """But for places: ours have 32 for observations and for goals, the published T and G."""
    (state, (_, params)), _ = shapes()
    unused = 2 * 32 - TINY.window - TINY.goal_length
    for network, ours, width in (
        (published.Teacher(TINY), params, TINY.teacher_width),
        (published.Student(TINY), state.params, TINY.student_width),
    ):
        theirs = sum(p.numel() for p in network.parameters())
        assert step_jax.size(ours) - theirs == unused * width


def test_teachers_of_equal_weights_have_equal_scores(published, monkeypatch):
    """The joint score of a window: order of tokens, positions, masks, preconditioning."""
    import torch

    # the published GELU is exact, ours the approximation
    monkeypatch.setattr(published.F, "gelu", functools.partial(
        torch.nn.functional.gelu, approximate="tanh"))
    config = step_jax.configure(TINY, "joint", 2)
    random = np.random.default_rng(0)
    (_, (_, params)), _ = shapes()
    params = jax.tree.map(lambda v: 0.3 * random.standard_normal(v.shape, np.float32), params)
    theirs = published.Teacher(TINY).eval()
    theirs.load_state_dict(torch_weights(params))
    context = step_jax.random_windows(TINY, 2).observation
    x = random.standard_normal((4, 2, 3, 3), np.float32)  # `[V, B, T, A]`
    ours = jax.jit(teachers.from_network(config.teacher, params, 3).joint_score)(
        x, context, jnp.full(2, published.SIGMA))
    with torch.no_grad():
        found = published.teacher_score(theirs, torch.tensor(x)[:, None], *(
            torch.tensor(np.array(v)) for v in (context.observations, context.goal)))
    np.testing.assert_allclose(found[:, 0], ours, rtol=1e-4, atol=1e-2)  # scores are about 100


def torch_weights(params) -> dict:
    """Our teacher's parameters by the names of the published one's."""
    import torch

    def layer(p, name):
        kernel = p["kernel"].T if "kernel" in p else p["scale"]
        return {f"{name}.weight": kernel, f"{name}.bias": p["bias"]}

    found = {"tokens.positions": params["states"]["positions"][: TINY.window],
             "tokens.goal_positions": params["states"]["goal_positions"][: TINY.goal_length],
             **layer(params["states"]["embed"], "tokens.embed"),
             **layer(params["transformer"]["norm"], "transformer.norm")}
    for name in ("actions", "level", "last"):
        found |= layer(params[name], name)
    for i in range(TINY.teacher_depth):
        block, name = params["transformer"][f"block_{i}"], f"transformer.blocks.{i}"
        for part in ("norm_1", "norm_2", "project", "up", "down"):
            found |= layer(block[part], f"{name}.{part}")
        found |= layer(block["query_key_value"], f"{name}.qkv")
    return {name: torch.tensor(np.array(value)) for name, value in found.items()}


def random_mixture(published):
    """A student of random weights at random windows: its mixture, as PyTorch sees it."""
    import torch

    student = published.Student(TINY).eval()
    means, tril, features = student(torch.randn(2, 3, 5), torch.randn(2, 2, 5))
    return student.log_weights(features).detach(), means.detach(), tril.detach()


def test_responsibilities_sum_to_one_and_are_bayes(published):
    import torch

    log_weights, means, tril = random_mixture(published)
    x = torch.randn(2, 3, 4, 3)  # four actions at each state
    found = published.log_responsibilities(log_weights, means, tril, x)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3, 4))
    normal = torch.distributions.MultivariateNormal(means[:, :, None], scale_tril=tril[:, :, None])
    joint = log_weights[:, :, None] + normal.log_prob(x[..., None, :])
    torch.testing.assert_close(found, joint.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_published_bounds_have_our_gradients(published):
    """∇ in means and factors of U_z of all experts, against core/objectives.py."""
    import torch

    log_weights, means, tril = random_mixture(published)
    noise = torch.randn(2, 2, 3, 1, 3)  # the same for every expert, as ours
    means.requires_grad_()
    tril.requires_grad_()
    bounds = published.expert_bounds(
        log_weights, means, tril, noise.expand(2, 2, 3, 2, 3), lambda x: torch.sin(3 * x))
    found = torch.autograd.grad(bounds.sum(), (means, tril))
    weights, *student, eps = (v.detach().numpy() for v in (log_weights, means, tril, noise))
    one = jnp.ones((2, 1))
    level = objectives.Level(0.1 * one, one, 0.1 * one)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def ours(means, tril):
        old = objectives.e_step(Mixture(weights, means, tril), level, False)
        return sum(objectives.expert_bound(
            z, means[:, :, z], tril[:, :, z], (eps[:, :, :, 0],) * 2, old,
            lambda x, t: jnp.sin(3 * x), level, bound="published", entropy="closed",
        ).sum() for z in range(2))

    for mine, expected in zip(found, ours(*student), strict=True):
        lower = np.tril(expected) if expected.ndim == 5 else expected
        mine = np.tril(mine) if mine.ndim == 5 else mine
        np.testing.assert_allclose(mine, lower, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_are_finite_and_where_they_belong(published, precision):
    """Each loss reaches all of its own parameters and none of the others', or of the teacher."""
    one = published.Step(TINY, 2, "cpu", precision, False)
    experts, gating = one.student.expert_parameters(), list(one.student.gating.parameters())
    states, goals, actions = (values[:2] for values in one.data)
    for loss, reached, others in (
        (published.expert_loss(one.student, one.teacher, 2, states, goals, one.autocast),
         experts, gating),
        (published.gating_loss(one.student, states, goals, actions, one.autocast),
         gating, experts),
    ):
        one.student.zero_grad(set_to_none=True)
        loss.backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in reached)
        assert all(p.grad is None for p in others)
    assert all(p.grad is None for p in one.teacher.parameters())


def test_a_step_updates_experts_and_gating(published):
    """And not the teacher."""
    import torch

    one = published.Step(TINY, 2, "cpu", "float32", False)
    networks = (one.student, one.teacher)
    before = [torch.nn.utils.parameters_to_vector(n.parameters()).clone() for n in networks]
    one()
    after = [torch.nn.utils.parameters_to_vector(n.parameters()) for n in networks]
    assert (before[0] != after[0]).float().mean() > 0.9
    assert torch.equal(before[1], after[1])
