"""The rows of the benchmark `step.py`, and the sizes of what they compute."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Of the relay kitchen, as published (VDD-BESO)."""

    observation_dim: int = 30
    action_dim: int = 9
    window: int = 4
    goal_length: int = 2
    experts: int = 4
    samples: int = 2
    teacher_width: int = 360
    teacher_depth: int = 6
    teacher_heads: int = 6
    student_width: int = 240
    student_depth: int = 6
    student_heads: int = 12
    head_width: int = 256
    gating_width: int = 64
    gating_depth: int = 2
    dropout: float = 0.1  # of the student, attention and features


class Row(NamedTuple):
    """One line of the table."""

    title: str
    module: str  # that builds it
    how: str
    note: str

    @property
    def joint(self) -> bool:
        """Whether a sample is a sequence of its own, and not a token behind a prefix."""
        return not self.how.startswith(("all", "last"))

    def places(self, sizes: Sizes) -> int:
        """Actions of a window that are distilled."""
        return 1 if self.how == "last" else sizes.window


ROWS = {
    "eager": Row(
        "PyTorch, eager", "published_torch", "eager",
        "The published algorithm. All T actions of a window are distilled; every expert and sample "
        "is a sequence of its own through the teacher; published bound, closed entropy. No data "
        "loader, no logging; fused attention and Adam."),
    "compile": Row(
        "PyTorch, compiled", "published_torch", "compile",
        "The same with both losses, forward and backward, through torch.compile."),
    "joint": Row(
        "JAX, joint", "step_jax", "joint",
        "The published algorithm in this library, window='joint', bound='published': as many "
        "windows and actions as PyTorch. What differs: samples share the window's tokens up to "
        "the first state, and the teacher's last layer is for actions alone (both exact); "
        "covariances have a floor on eigenvalues, not on the factor's diagonal; steps before an "
        "episode are masked; GELU is approximate."),
    "all": Row(
        "JAX, teacher-forced", "step_jax", "all",
        "This library's algorithm, window='all', bound='diffused': as many windows and actions as "
        "PyTorch. An action's past in the window is the demonstrated one, so a sample is a single "
        "token that shares the window's prefix. The gating learns in the same pass of the student "
        "as the experts."),
    "slices": Row(
        "JAX, teacher-forced, in slices", "step_jax", "all, in slices of 32",
        "The same with the gradient computed in slices of 32 windows, config.run.accumulate: less "
        "memory, and on a CPU more of it in its cache."),
    "last": Row(
        "JAX, teacher-forced, newest action", "step_jax", "last",
        "The same with window='last'. Only the newest action of a window is distilled, which is "
        "the one that a policy acts by: as many windows as PyTorch, T times fewer actions."),
}
