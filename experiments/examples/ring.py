"""The target of both examples: actions on a ring of six modes that turns with the observation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax import policy as policies
from vdd_jax.policy import Policy, SampledPolicy
from vdd_jax.teachers import Teacher

MODES, RADIUS, STD = 6, 1.5, 0.1


def centres(observation):
    """Of the modes at observations `[N, 1]` in [−1, 1], `[N, K, 2]`."""
    angle = np.pi / 3 * observation + 2 * np.pi / MODES * np.arange(MODES)
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)


def demonstrations(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Observations `[num, 1]` and actions `[num, 2]`, float32."""
    rng = np.random.default_rng(seed)
    observation = rng.uniform(-1, 1, (num, 1))
    chosen = centres(observation)[np.arange(num), rng.integers(MODES, size=num)]
    return (observation.astype(np.float32),
            (chosen + STD * rng.normal(size=(num, 2))).astype(np.float32))


def found(policy: Policy | SampledPolicy, num: int = 1_000) -> str:
    """How many modes samples of a policy visit at the worst of nine observations, with a tenth of
    their weight and within three standard deviations, and how many samples are as near to any."""
    observation = np.linspace(-0.9, 0.9, 9)[:, None].astype(np.float32)
    samples = np.asarray(policy.sample(observation[:, None], jax.random.key(1), (num,)))
    near = np.linalg.norm(samples[:, :, None] - centres(observation), axis=-1) < 3 * STD
    visited = int((near.mean(0) >= 0.1 / MODES).sum(-1).min())  # of `[V, N, K]`
    return (f"modes found {visited} of {MODES}, samples within 3 std of a mode "
            f"{near.any(-1).mean():.3f}")


def compare(config: ConfigDict, teacher: Teacher, workdir: Path) -> None:
    """Prints what teacher and student of a finished run find."""
    student = policies.load(workdir)
    print(f"teacher: {found(policies.of_teacher(config, teacher, student.scaler, config.teacher))}")
    print(f"student: {found(student)}")


def configuration(data: Path, num_iterations: int) -> ConfigDict:
    """Of a student for the ring; the teacher works in the units of the data."""
    config = config_lib.default()
    config.task.update(name="recorded", demonstrations=str(data), scaler="none")
    config.student.update(num_experts=8, trunk_width=128, trunk_depth=3)
    # first by likelihood to actions of the teacher, then by its score beside that: no mode is lost
    config.distill.update(
        num_iterations=num_iterations, actions="teacher", teacher_actions=60_000,
        warm_start=0.6, warm_batch_size=256, likelihood_weight=1.0, weight_by_gating=True,
        gating_start=0.0, gating_full=0.0, reallocations=0, clip_norm=1.0)
    config.distill.noise.update(low=0.05, high=2.0, anneal_broad=0.2)
    config.evaluate.teacher_steps = ()
    config.run.figures = False
    return config


def shrink(config: ConfigDict) -> None:
    """To next to nothing, for tests."""
    config.distill.update(teacher_actions=200, batch_size=8, warm_start=0.0)
    config.student.update(num_experts=2, trunk_width=8, head_width=8, gating_width=8)
    config.teacher.sampler.num_steps = 2
    config.run.update(steps_per_dispatch=10, log_every=10, checkpoint_every=10)


def save(folder: Path, observations, actions) -> Path:
    """The demonstrations where a run finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "demonstrations.npz", observations=observations, actions=actions)
    return folder / "demonstrations.npz"


def embed(xp, x, observation, t):
    """What both networks see, `[N, 11]`: the noised action, the time, and waves of the
    observation; `xp` is jax.numpy or torch."""
    waves = [f(k * observation) for k in (1, 2, 4) for f in (xp.sin, xp.cos)]
    rest = [t[:, None], xp.sin(3 * t)[:, None], observation]
    return (xp.concatenate if xp is jnp else xp.cat)([x, *waves, *rest], -1)
