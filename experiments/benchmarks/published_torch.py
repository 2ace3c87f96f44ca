"""The published distillation step in plain PyTorch, at the sizes of the benchmark `step.py`.

Written from the paper's equations (Zhou et al. 2024, arXiv 2406.12538; METHOD 2) and the published
sizes. The student gives one mixture for every step of the window; the teacher's score is the joint
one of a whole window of sampled actions: every expert and sample is a sequence of its own,

    [σ, goal…, s₁, a₁, …, s_T, a_T],

V·Z·B sequences in one forward pass without gradients. The published bound asks the teacher at the
undiffused sample and has the entropy in closed form; Adam for experts and for gating.

Where that leaves a choice, the one that is faster in PyTorch is taken: the E-step shares the
student's forward pass, query, key and value are one product, attention is
`scaled_dot_product_attention`, heads are stacked, Gaussians are solved once for each matrix, Adam
is fused, data lie on the device and nothing is logged.
"""

import math
import shutil
from os import environ

import torch
import torch.nn.functional as F
from step import Job, Unavailable, peak_rss_mib
from step_rows import Sizes
from torch import nn

SIGMA, SIGMA_DATA = 0.1, 0.5
LEARNING_RATE, ITERATIONS = 1e-4, 20_001
MIN_STD = 1e-4


class Block(nn.Module):
    """A pre-normalised causal block, tokens `[N, S, D]` → the same."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, s, d = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(n, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        out = self.project(out.transpose(1, 2).reshape(n, s, d))
        x = x + F.dropout(out, self.dropout, self.training)
        out = self.down(F.gelu(self.up(self.norm_2(x))))
        return x + F.dropout(out, self.dropout, self.training)


class Transformer(nn.Module):
    """Blocks and a last normalisation, `[N, S, D]` → `[N, S, D]`."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, tokens):
        x = F.dropout(tokens, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class StateTokens(nn.Module):
    """Goals `[N, G, O]` and states `[N, T, O]` → tokens of both; one linear layer embeds them."""

    def __init__(self, sizes: Sizes, width: int):
        super().__init__()
        self.embed = nn.Linear(sizes.observation_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(sizes.window, width))
        self.goal_positions = nn.Parameter(0.02 * torch.randn(sizes.goal_length, width))

    def forward(self, states, goals):
        return self.embed(goals) + self.goal_positions, self.embed(states) + self.positions


class Teacher(nn.Module):
    """The score of a BESO teacher, of all actions of a window together."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.teacher_width
        self.tokens = StateTokens(sizes, width)
        self.actions, self.level = nn.Linear(sizes.action_dim, width), nn.Linear(1, width)
        self.transformer = Transformer(width, sizes.teacher_depth, sizes.teacher_heads, 0.0)
        self.last = nn.Linear(width, sizes.action_dim)

    def forward(self, x, sigma, states, goals):
        """∇ log π_σ at x `[N, T, A]` for σ `[N]`, states `[N, T, O]`, goals `[N, G, O]`."""
        sigma = sigma[:, None, None]
        total = sigma**2 + SIGMA_DATA**2
        goals, states = self.tokens(states, goals)
        # a state and its action share a position embedding
        actions = self.actions(x * total.rsqrt()) + self.tokens.positions
        level = self.level(sigma.log() / 4)
        body = torch.stack([states, actions], dim=2).flatten(1, 2)
        out = self.transformer(torch.cat([level, goals, body], dim=1))
        out = self.last(out[:, 2 + goals.shape[1] :: 2]).float()
        denoised = SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA * total.rsqrt() * out
        return (denoised - x) / sigma**2


class Stacked(nn.Module):
    """A linear layer for each of Z experts, `[Z, N, F]` → `[Z, N, F']`."""

    def __init__(self, experts: int, features: int, out: int):
        super().__init__()
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(experts, features, out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(experts, 1, out))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


class Heads(nn.Module):
    """Residual MLPs, features `[N, D]` → means `[N, Z, A]` and Cholesky factors `[N, Z, A, A]`."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        z, a, width = sizes.experts, sizes.action_dim, sizes.head_width
        self.first = Stacked(z, sizes.student_width, width)
        self.up, self.down = Stacked(z, width, width), Stacked(z, width, width)
        self.mean, self.scale = Stacked(z, width, a), Stacked(z, width, a * (a + 1) // 2)
        nn.init.uniform_(self.mean.bias, -1.0, 1.0)  # experts start spread out
        self.register_buffer("below", torch.tril_indices(a, a, -1))

    def forward(self, features):
        z = self.mean.weight.shape[0]
        x = self.first(features.expand(z, *features.shape))
        x = F.mish(x + self.down(F.mish(self.up(F.mish(x)))))
        mean, raw = self.mean(x).transpose(0, 1).float(), self.scale(x).transpose(0, 1).float()
        a = mean.shape[-1]
        start = math.log(math.e - 1)  # softplus of which is an initial std of 1
        tril = torch.diag_embed(F.softplus(raw[..., :a] + start) + MIN_STD)
        tril[..., self.below[0], self.below[1]] = raw[..., a:]
        return mean, tril


class Student(nn.Module):
    """One mixture for every step of the window; the gating reads the trunk's features."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.student_width
        self.tokens = StateTokens(sizes, width)
        self.trunk = Transformer(
            width, sizes.student_depth, sizes.student_heads, sizes.dropout)
        self.heads = Heads(sizes)
        layers, size = [], width
        for _ in range(sizes.gating_depth):
            layers += [nn.Linear(size, sizes.gating_width), nn.Mish()]
            size = sizes.gating_width
        self.gating = nn.Sequential(*layers, nn.Linear(size, sizes.experts))

    def expert_parameters(self):
        return [p for part in (self.tokens, self.trunk, self.heads) for p in part.parameters()]

    def forward(self, states, goals):
        """Means `[B, T, Z, A]`, factors `[B, T, Z, A, A]` and features `[B, T, D]`."""
        goals, states = self.tokens(states, goals)
        features = self.trunk(torch.cat([goals, states], dim=1))[:, goals.shape[1] :]
        mean, tril = self.heads(features.flatten(0, 1))
        batch = features.shape[:2]
        return mean.unflatten(0, batch), tril.unflatten(0, batch), features

    def log_weights(self, features):
        """log q(z|s) `[B, T, Z]`."""
        return F.log_softmax(self.gating(features).float(), dim=-1)


def log_responsibilities(log_weights, means, tril, x):
    """log q(z|a,s) `[..., N, Z]` of N actions x `[..., N, A]` at each state.

    Args:
      log_weights, means, tril: the mixture, `[..., Z]`, `[..., Z, A]`, `[..., Z, A, A]`.
    """
    away = x[..., None, :, :] - means[..., :, None, :]  # `[..., Z, N, A]`
    # all actions of a state are right-hand sides of one system: no factor is copied
    white = torch.linalg.solve_triangular(tril, away.transpose(-1, -2), upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_prob = -0.5 * white.square().sum(-2) - log_det[..., None]  # but for a constant
    return F.log_softmax((log_weights[..., None] + log_prob).transpose(-1, -2), dim=-1)


def teacher_score(teacher: Teacher, x, states, goals):
    """Scores `[V, Z, B, T, A]` at x: every expert and sample is a sequence, in one pass."""
    v, z, b = x.shape[:3]
    states, goals = (s.expand(v, z, *s.shape).flatten(0, 2) for s in (states, goals))
    sigma = x.new_full((v * z * b,), SIGMA)
    return teacher(x.flatten(0, 2), sigma, states, goals).view_as(x)


def expert_bounds(log_weights, means, tril, noise, score):
    """The published bound of every expert, but for a constant, `[B, T, Z]`.

    Args:
      log_weights, means, tril: the student, `[B, T, Z]`, `[B, T, Z, A]`, `[B, T, Z, A, A]`.
      noise: ε `[V, B, T, Z, A]`.
      score: (x `[V, B, T, Z, A]`) → the teacher's score there, without a gradient.
    """
    x = means + (tril @ noise[..., None])[..., 0]
    minus_log_teacher = -(score(x.detach()) * x).sum(-1)
    v, b, t, z, _ = x.shape
    responsibilities = log_responsibilities(  # of the old student: parameters held, not samples
        log_weights, means.detach(), tril.detach(), x.permute(1, 2, 0, 3, 4).flatten(2, 3))
    own = responsibilities.view(b, t, v, z, z).diagonal(dim1=-2, dim2=-1)  # `[B, T, V, Z]`
    minus_entropy = -tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return minus_log_teacher.mean(0) - own.mean(2) + minus_entropy


def expert_loss(student: Student, teacher: Teacher, samples: int, states, goals, autocast):
    """The published bound of all experts, summed over them; a scalar."""
    with autocast():
        means, tril, features = student(states, goals)
    with torch.no_grad(), autocast():
        log_weights = student.log_weights(features)

    def score(x):
        with torch.no_grad(), autocast():
            found = teacher_score(teacher, x.permute(0, 3, 1, 2, 4), states, goals)
        return found.permute(0, 2, 3, 1, 4)

    noise = torch.randn(samples, *means.shape, device=means.device)
    return expert_bounds(log_weights, means, tril, noise, score).mean((0, 1)).sum()


def gating_loss(student: Student, states, goals, actions, autocast):
    """Cross-entropy of the demonstrated actions' responsibilities, of actions `[B, T, A]`."""
    with torch.no_grad(), autocast():
        means, tril, features = student(states, goals)
    with autocast():
        log_weights = student.log_weights(features)
    with torch.no_grad():
        target = log_responsibilities(log_weights, means, tril, actions[:, :, None])[:, :, 0].exp()
    return -(target * log_weights).sum(-1).mean()


class Step:
    """One iteration: one update of the experts, one of the gating."""

    def __init__(self, sizes: Sizes, batch: int, device: str, precision: str, compiled: bool):
        self.samples, self.batch, self.device = sizes.samples, batch, device
        self.teacher = Teacher(sizes).to(device).eval().requires_grad_(False)
        self.student = Student(sizes).to(device)
        self.expert_loss, self.gating_loss = expert_loss, gating_loss
        if compiled:
            self.expert_loss = torch.compile(expert_loss, dynamic=False)
            self.gating_loss = torch.compile(gating_loss, dynamic=False)
        self.autocast = lambda: torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
        self.expert_updates = self._adam(self.student.expert_parameters())
        self.gating_updates = self._adam(self.student.gating.parameters())
        n, (t, g) = max(1024, batch), (sizes.window, sizes.goal_length)
        self.data = [torch.randn(n, *shape, device=device) for shape in (
            (t, sizes.observation_dim), (g, sizes.observation_dim), (t, sizes.action_dim))]

    @staticmethod
    def _adam(parameters):
        adam = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
        return adam, torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, ITERATIONS)

    def __call__(self):
        index = torch.randint(len(self.data[0]), (self.batch,), device=self.device)
        states, goals, actions = (values[index] for values in self.data)
        self._update(self.expert_updates, self.expert_loss(
            self.student, self.teacher, self.samples, states, goals, self.autocast))
        self._update(self.gating_updates, self.gating_loss(
            self.student, states, goals, actions, self.autocast))
        if self.device != "cpu":
            torch.cuda.synchronize()

    @staticmethod
    def _update(updates, loss):
        optimiser, schedule = updates
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


def build(sizes: Sizes, how: str, windows: int, device: str, precision: str, threads: int) -> Job:
    """The step for the benchmark; `how` is 'eager' or 'compile'.

    Raises:
      Unavailable: without the device, or without what compiles.
    """
    torch.set_num_threads(threads)
    library = peak_rss_mib() if device == "cpu" else 0.0
    if device == "cuda":
        if not torch.cuda.is_available():
            raise Unavailable("PyTorch sees no CUDA device")
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    elif how == "compile" and not any(
            map(shutil.which, [environ["CXX"]] if "CXX" in environ else ["g++", "clang++"])):
        raise Unavailable("no C++ compiler was found, and torch.compile needs one for a CPU")
    torch.manual_seed(0)
    step = Step(sizes, windows, device, precision, how == "compile")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"

    def peak_mib():
        return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_rss_mib()

    parameters = {kind: sum(p.numel() for p in module.parameters())
                  for kind, module in (("teacher", step.teacher), ("student", step.student))}
    return Job(step, peak_mib, {"device": name, "versions": {"torch": torch.__version__},
                                "parameters": parameters, "library_mib": round(library, 1)})
