"""The smallest configuration that has everything, for tests that run it."""

import pytest
from ml_collections import ConfigDict

from vdd_jax import config as config_lib
from vdd_jax import evaluate_closed_loop, open_loop


def tiny(**values) -> ConfigDict:
    """A run of two experts, 20 iterations and a checkpoint every 8; `group__key=value`."""
    config = config_lib.default()
    config.task.update(num_modes=2, observation_dim=1, num_demonstrations=200)
    config.student.update(
        num_experts=2, trunk_width=8, trunk_depth=1, head_width=8, gating_width=8, gating_depth=1
    )
    config.distill.update(num_iterations=20, batch_size=8, samples_per_state=2)
    config.evaluate.update(num_samples=200, num_observations=8)
    config.run.update(steps_per_dispatch=4, log_every=8, checkpoint_every=8, num_snapshots=2,
                      figures=False)
    return changed(config, **values)


def tiny_avoiding(**values) -> ConfigDict:
    """The same in the task Avoiding with a learned teacher: 24 demonstrations, windows of 2."""
    config = tiny()
    config.task.update(name="avoiding", episodes_per_mode=1, window=2)
    config.stages = ("train_teacher", "distill", "evaluate")
    config.teacher.update(
        width=8, depth=1, encoder_depth=1, fourier=1, heads=2, batch_size=16, num_iterations=20,
        warmup=2, learning_rate=3e-3, check_every=8)
    config.teacher.sampler.num_steps = 2
    config.student.update(fourier=1, heads=2)
    config.distill.update(batch_size=4, reallocations=1)
    config.distill.noise.low = 0.05
    config.policy.min_weight = 0.1
    config.evaluate.num_episodes = 3
    return changed(config, **values)


def changed(config: ConfigDict, **values) -> ConfigDict:
    """A copy with `group__key=value` put in."""
    config = ConfigDict(config.to_dict())
    for name, value in values.items():
        *groups, leaf = name.split("__")
        node = config
        for group in groups:
            node = node[group]
        node[leaf] = value
    return config


def less_is_measured(patch: pytest.MonkeyPatch) -> None:
    """Evaluations in which no number means anything."""
    patch.setattr(evaluate_closed_loop, "TIMED_CALLS", 3)
    for name, value in (("STATES", 16), ("SAMPLES", 32), ("FLOW_STATES", 8),
                        ("FLOW_SAMPLES", 4), ("FLOW_STEPS", 4)):
        patch.setattr(open_loop, name, value)
