"""The policies that table 3 times: published sizes, random weights."""

import runpy
import sys
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from runs import ROOT

from vdd_jax import problem, teachers
from vdd_jax.baselines import consistency
from vdd_jax.data import Scaler
from vdd_jax.models import denoiser, vision
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.policy import Policy
from vdd_jax.sampled_policy import SampledPolicy

sys.path.append(str(ROOT / "experiments" / "benchmarks"))
import step_jax  # noqa: E402
from step_rows import Sizes  # noqa: E402

VDD = "VDD, 1 call"
CALLS = {"DDPM": (1, 2, 4, 8, 16), "BESO": (1, 2, 4, 8, 16), "CD": (1, 2, 4), "CTM": (1, 2, 4)}


class Sized(NamedTuple):
    config: ConfigDict
    sizes: Sizes  # of observations and actions
    images: tuple[int, ...] = ()  # (C, S, S, 3)


def configured(file: str, variant: str = "") -> Sized:
    config = runpy.run_path(str(ROOT / "configs" / file))["get_config"](variant)
    spec = problem.spec(config)
    return Sized(config, Sizes(spec.observation_dim, spec.action_dim, config.task.window,
                               goal_length=0), spec.images)


def kitchen() -> Sized:
    return Sized(step_jax.configure(Sizes(), "last", 1), Sizes())


SIZES = {"avoiding": partial(configured, "avoiding_beso.py"), "kitchen": kitchen,
         "sorting_image": partial(configured, "published.py", "sorting_image_beso")}


def policies(sized: Sized) -> dict[str, Policy | SampledPolicy]:
    """'method, N call(s)' → policy, VDD first."""
    config, sizes, images = sized
    o, a = sizes.observation_dim, sizes.action_dim
    scaler = jax.device_put(Scaler(*(make(n, np.float32) for make, n in (
        (np.zeros, a), (np.ones, a), (np.zeros, o), (np.ones, o), (np.ones, o)))))
    shared = {"observation_dim": o, "action_dim": a, "window": sizes.window, "images": images,
              "goal_length": sizes.goal_length, "matmul": problem.MATMUL[config.precision]}
    example, key = step_jax.random_windows(sizes, 1), jax.random.key(0)
    if images:  # all see by the same encoder
        encoder, frames = vision.encoder(config.teacher), np.zeros((1, sizes.window, *images),
                                                                   np.uint8)
        encode = jax.tree_util.Partial(encoder.apply, jax.jit(encoder.init)(key, frames))
        scaler = scaler._replace(encode=encode)
        example = example._replace(observation=example.observation.with_features(encode(frames)))
    model = MixtureOfExperts(action_dim=a, **config.student.to_dict())
    params = jax.jit(model.init)(key, example.observation)["params"]
    found = {VDD: Policy(params, scaler, model.apply, min_weight=config.policy.min_weight,
                         acting=config.policy.acting, apply_one=model.apply_one, **shared)}
    for method, all_calls in CALLS.items():
        params, draw = _drawn(method, config, example, key)
        for calls in all_calls:
            found[f"{method}, {calls} call{'s' * (calls > 1)}"] = SampledPolicy(
                params, scaler, draw, lambda num_steps: num_steps, method, num_steps=calls,
                **shared)
    return found


def _drawn(method: str, config: ConfigDict, example, key):
    """Random parameters and what draws with them, as `SampledPolicy` takes it."""
    settings = config.teacher.copy_and_resolve_references()
    if method in ("CD", "CTM"):
        ours = config.consistency.copy_and_resolve_references()
        ours.method = method.lower()
        net = consistency.network(ours, settings, example)
        return jax.jit(net.init)(key), consistency.sampler(ours, net)
    if method == "DDPM":
        settings.update(schedule="ddpm_cosine", num_train_steps=max(CALLS["DDPM"]),
                        prediction="eps", sigma_data=1.0)
        settings.sampler.update(kind="ddpm", spacing="time", clip=3.0)
    model = denoiser.build(settings, example.action.shape[-1])
    params = jax.jit(partial(denoiser.init, settings, model))(key, example)
    teacher = teachers.from_network(settings, params, example.action.shape[-1])

    def draw(params, observation, key, shape, num_steps):
        return teachers.sample(teacher.of(params), settings, observation, key, shape[:-1],
                               shape[-1], num_steps)

    return params, draw
