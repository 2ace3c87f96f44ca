"""Small students with random weights, one of every kind that can be exported."""

import jax
import jax.numpy as jnp
import numpy as np
from contexts import randomised
from ml_collections import ConfigDict
from tiny_config import tiny, tiny_avoiding

from vdd_jax import problem
from vdd_jax.data import Scaler, difference_matrix
from vdd_jax.policy import Policy, _sizes


def configs() -> dict[str, ConfigDict]:
    """By name, with every trunk, head, covariance, gating, history and activation among them."""
    small = dict(student__num_experts=3, student__trunk_width=8, student__std_floor=0.02)
    goal = dict(task__goal_length=2, task__window=3, student__trunk="transformer",
                student__trunk_width=16, student__trunk_depth=2, student__heads=4)
    return {
        "toy": tiny(student__activation="gelu"),
        "no observation": tiny(task__observation_dim=0, student__std_floor=0.0),
        "windows": tiny_avoiding(
            **small, task__window=5, student__trunk="residual_mlp", student__head_depth=0,
            student__activation="silu", student__fourier=4),
        "transformer": tiny_avoiding(**{**small, **goal}, student__head="residual_mlp"),
        "transformer, absolute": tiny_avoiding(
            **{**small, **goal}, task__chunk=2, student__history="absolute", student__fourier=0),
        "independent": tiny_avoiding(**small, student__independent=True, task__goal_length=1),
        "independent toy": tiny(student__independent=True, student__activation="relu"),
        "relative": tiny_avoiding(**small, task__name="pushing", task__relative=True,
                                  task__window=2, student__fourier=2),
        "diagonal": tiny_avoiding(
            **small, student__covariance="diagonal", student__gating="uniform",
            student__history="absolute", student__activation="tanh"),
    }


def student(config: ConfigDict) -> Policy:
    """The policy of a configuration, its weights and scaler random."""
    model, example = problem.student(config), problem.example(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), example.observation)["params"])
    spec, rng = problem.spec(config), np.random.default_rng(0)
    a, o = example.action.shape[-1], spec.observation_dim
    relative = problem.relative(config)
    r = o + len(relative)
    scaler = Scaler(*(jnp.asarray(rng.uniform(*bounds, size), jnp.float32) for bounds, size in (
        ((-1, 1), a), ((0.5, 2), a), ((-1, 1), r), ((0.5, 2), r), ((0.1, 0.3), r))))
    if relative:
        scaler = scaler._replace(relative=difference_matrix(relative, o))
    return Policy(randomised(shapes, 0.3), scaler, model.apply, apply_one=model.apply_one,
                  min_weight=config.policy.min_weight, **_sizes(config))
