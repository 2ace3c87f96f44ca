"""CD and CTM: losses with gradients where they belong, runs, resume, the policy that comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import at_once
from tiny_config import changed, less_is_measured, tiny, tiny_avoiding

from vdd_jax import config as config_lib
from vdd_jax import evaluate, open_loop, policy, problem, stages, teachers
from vdd_jax.baselines import consistency
from vdd_jax.core import samplers
from vdd_jax.data import first

pytest_plugins = "smoke_run"

KEY = jax.random.key(0)
both = pytest.mark.parametrize("method", consistency.METHODS)


def of_toy(method="cd", **values):
    """A small run of the stage on the ring of two modes."""
    config = tiny(stages=("consistency", "evaluate"), evaluate__student_steps=(1, 2))
    config.consistency.update(method=method, num_iterations=20, batch_size=16, num_scales=6,
                              teacher_steps=2)
    config.teacher.update(width=16, depth=1, encoder_depth=1, sigma_min=0.02, sigma_max=5.0)
    return changed(config, **values)


def parts(config):
    """What a step is made of."""
    task = problem.build(config, None)
    net = consistency.network(config.consistency, config.teacher, problem.example(config))
    state = at_once(consistency.init, config.consistency, net, KEY, None)
    drawn = consistency.draw(config.consistency, first(task.data, 64), jax.random.key(1))
    losses = consistency.make_losses(config.consistency, net, config.teacher, task.teacher)
    return task, net, state, drawn, losses


def moved(params):
    """Parameters none of which is 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(tree, [v + 0.1 * jax.random.normal(k, v.shape)
                                     for v, k in zip(leaves, keys, strict=True)])


@both
def test_every_loss_has_a_gradient_in_every_parameter(method):
    """And the jumps' none in the target's, which is held."""
    task, net, state, drawn, (jumps, denoising) = parts(of_toy(method))
    params, target = moved(state.params), moved(state.params)
    losses = [lambda p: jumps(p, drawn, KEY, target)]
    if method == "ctm":
        losses.append(lambda p: denoising(p, drawn, KEY))
    for loss in losses:
        value, grads = jax.value_and_grad(loss)(params)
        assert value > 0
        for path, grad in jax.tree_util.tree_leaves_with_path(grads):
            assert np.abs(grad).max() > 0, path


def test_the_target_of_cd_is_held():
    """Its gradient is exactly zero. CTM's carries the jump's own on to the end: not zero."""
    task, net, state, drawn, (jumps, _) = parts(of_toy("cd"))
    params = moved(state.params)
    for grad in jax.tree.leaves(jax.grad(jumps, argnums=3)(params, drawn, KEY, params)):
        np.testing.assert_array_equal(grad, 0.0)


@both
def test_boundaries_hold_whatever_the_parameters(method):
    """CTM: G(y, r, r) = y. CD: f(y, 0) = y, and f(y, r) → y with r → 0."""
    task, net, state, drawn, _ = parts(of_toy(method))
    params, action = moved(state.params), drawn.batch.action
    seen, ones = drawn.batch.observation, jnp.ones(len(action))
    for r in (0.0, 0.02, 1.0, 5.0):
        np.testing.assert_array_equal(net.go(params, action, seen, r * ones, r * ones), action)
    config = of_toy(method, teacher__sigma_min=1e-4)
    net = consistency.network(config.consistency, config.teacher, problem.example(config))
    found = net.go(params, action, seen, 1e-4 * ones, 0.0 * ones)
    np.testing.assert_allclose(found, action, atol=1e-3)
    assert np.abs(net.go(params, action, seen, ones, 0.0 * ones) - action).max() > 0.1


def test_a_perfect_network_has_no_loss_but_that_of_the_grid():
    """With the jump of the teacher's ODE itself in place of the network, the loss of jumps is that
    of the solver; with another it is not."""
    config = of_toy("ctm", consistency__num_scales=60)
    task, net, state, drawn, _ = parts(config)

    def go(scale):
        def jump(params, y, observation, r, s, train=False, key=None):
            # the ODE of the exact density, finely
            def step(y, u):
                at, to = (jnp.exp(jnp.log(r + 1e-9) * (1 - v) + jnp.log(s + 1e-9) * v)
                          for v in (u, u + 1 / 64))
                d = task.teacher.denoise(y, observation, jnp.maximum(at, 1e-4))
                return y + scale * ((to - at) / (at + 1e-12))[..., None] * (y - d), None

            return jnp.where((r > s)[..., None], jax.lax.scan(step, y, jnp.arange(64) / 64)[0], y)

        return jump

    values = []
    for scale in (1.0, 0.5):
        jumps, _ = consistency.make_losses(
            config.consistency, net._replace(go=go(scale)), config.teacher, task.teacher)
        values.append(float(jumps(None, drawn, KEY, None)))
    assert values[0] < 0.01 and values[1] > 5 * values[0]


def test_what_is_drawn():
    """CD: to the end; CTM: half to the end at least; walks that stay within the jump and the
    limit; every start of the grid occurs."""
    for method in consistency.METHODS:
        config = of_toy(method)
        data = problem.build(config, None).data
        drawn = consistency.draw(config.consistency, first(data, 200), KEY)
        start, end, num = (np.asarray(v) for v in (drawn.start, drawn.end, drawn.num))
        assert set(start) == set(range(6))
        assert (end > start).all() and (end <= 6).all() and (num >= 1).all()
        assert (start + num <= end).all() and set(num) == {1, 2}
        if method == "cd":
            assert (end == 6).all()
        else:
            assert 0.5 < (end == 6).mean() < 0.9


def test_the_network_starts_as_the_teachers(finished_avoiding):
    """A jump to the end is then the teacher's denoiser, at every noise, for CD and CTM."""
    config = finished_avoiding.config
    task = problem.build(config, finished_avoiding.workdir)
    for method in consistency.METHODS:
        ours = config.consistency.copy_and_resolve_references()
        ours.method = method
        net = consistency.network(ours, task.teacher_config, problem.example(config))
        state = at_once(consistency.init, ours, net, KEY, task.teacher.params)
        batch = first(task.data, 7)
        for ratio in (0.05, 1.0, 5.0):
            r = jnp.full(7, ratio)
            expected = task.teacher.denoise(batch.action, batch.observation, r)
            for s in (0.0 * r,) if method == "cd" else (0.0 * r, 0.5 * r):
                found, _ = net.says(state.params, batch.action, batch.observation, r, s)
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_of_a_learned_teacher(method, backbone, tmp_path, finished_avoiding, monkeypatch):
    """Both kinds of network, whole windows and chunks of VP teachers included: from the stage to
    the policy that is loaded, which says that it has no density."""
    config = tiny_avoiding(
        stages=("train_teacher", "consistency"), consistency__method=method,
        consistency__num_iterations=4, consistency__batch_size=8, consistency__num_scales=4,
        teacher__num_iterations=4, teacher__backbone=backbone, run__steps_per_dispatch=4,
        consistency__actions="teacher", consistency__teacher_actions=100)
    if backbone == "transformer":
        config.teacher.update(window="all", dropout=0.1)
    else:
        config.teacher.update(schedule="ddpm_cosine", prediction="x0")
        config.teacher.sampler.clip = 3.0
        config.distill.noise.low = 0.3
        config.task.chunk = 2
    stages.run(config, tmp_path)
    loaded = policy.load(tmp_path)
    assert method in repr(loaded) and loaded.network_calls == 1
    seen = np.zeros((3, 2, 4))
    if backbone == "transformer":
        with pytest.raises(ValueError, match=r"past_actions=…\) of shape \[..., 1, 2\]"):
            loaded.act(seen, KEY)
        seen = policy.History(seen, past_actions=np.zeros((3, 1, 2)))
    shape = (3, 2, 2) if config.task.chunk == 2 else (3, 2)
    action = loaded.act(seen, KEY)
    assert action.shape == shape and np.isfinite(action).all()
    more = loaded.replace(num_steps=3)
    assert more.network_calls == 3 and more.sample(seen, KEY, (5,)).shape == (5, *shape)
    for ask in (lambda: loaded.log_prob(seen, action), lambda: loaded.entropy(seen, KEY),
                lambda: loaded.mixture(seen)):
        with pytest.raises(TypeError, match="without a density"):
            ask()
    with pytest.raises(ValueError, match="takes observations of shape"):
        loaded.act(np.zeros((3, 5, 4)), KEY)
    teacher = policy.load_teacher(tmp_path, 1)
    assert teacher.network_calls == 1 and teacher.act(seen, KEY).shape == shape


def test_another_runs_teacher(tmp_path, finished_avoiding):
    """The network is that teacher's, not what this run's keys say; so is the scaler."""
    config = finished_avoiding.config.copy_and_resolve_references()
    config.stages = ("consistency",)
    config.teacher.workdir = str(finished_avoiding.workdir)
    config.teacher.width = 24
    config.consistency.update(num_iterations=2, batch_size=4, num_scales=4)
    stages.run(config, tmp_path)
    loaded = policy.load(tmp_path)
    assert loaded.params["first"]["kernel"].shape[1] == 8
    teacher = policy.load_teacher(finished_avoiding.workdir)
    jax.tree.map(np.testing.assert_array_equal, loaded.scaler, teacher.scaler)


@both
def test_a_stopped_run_resumes_bit_for_bit(method, tmp_path):
    """Asked to leave between checkpoints, then run again: the same parameters."""
    config = of_toy(method, stages=("consistency",))
    stages.run(config, tmp_path / "whole")
    other = tmp_path / "stopped"
    stages.claim(config, other, False)
    consistency.run(config, other, stop_at=12)  # dispatches of 4, checkpoints of 8
    stages.run(config, other)
    jax.tree.map(np.testing.assert_array_equal, policy.load(tmp_path / "whole").params,
                 policy.load(other).params)


def test_the_report_and_table_of_the_toy(tmp_path, monkeypatch, capsys):
    """A policy without a density is judged by its samples, against the floor."""
    monkeypatch.setattr(open_loop, "SAMPLES", 64)
    report = stages.run(of_toy("ctm"), tmp_path)
    assert report["student"]["kind"] == "ctm" and "kl_teacher_student" not in report["student"]
    assert report["student"]["modes_total"] == 2 and report["student"]["network_calls"] == 1
    assert report["teacher"]["sliced_wasserstein"] > 0
    text = evaluate.summary(report)
    assert "CTM" in text and "(floor" in text and text in capsys.readouterr().out


def test_a_thousand_iterations_reach_the_teachers_samples(tmp_path):
    """One step of CD on the ring of two modes: within three times the distance of two sets of the
    teacher's own."""
    config = of_toy("cd", consistency__num_iterations=1_500, consistency__batch_size=128,
                    consistency__num_scales=18, teacher__width=64, task__observation_dim=0,
                    consistency__learning_rate=3e-3, consistency__ema=0.99,
                    run__steps_per_dispatch=500, run__log_every=500, run__checkpoint_every=1_500)
    report = stages.run(config, tmp_path)
    distance = report["student"]["sliced_wasserstein"]
    assert distance < 3 * report["teacher"]["sliced_wasserstein"]
    assert report["student"]["modes_found"] == 2


@pytest.mark.parametrize("values, message", [
    ({"stages": ("distill", "consistency")}, "give each a workdir of its own"),
    ({"stages": ("consistency",), "consistency__actions": "teacher"}, "samples of its teacher"),
    ({"stages": ("consistency",), "teacher__backbone": "transformer"}, "a task with windows"),
    ({"evaluate__student_steps": ()}, "integers of at least 1"),
    ({"evaluate__teacher_steps": (0,)}, "integers of at least 1"),
    ({"consistency__num_scales": 1}, "at least 2"),
])
def test_what_does_not_fit_is_said(values, message):
    """One sentence each."""
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.validate(tiny(**values))


def test_a_teacher_with_fewer_steps_is_the_same_network(finished_avoiding):
    """`load_teacher` with one step: the prior, denoised once."""
    teacher = policy.load_teacher(finished_avoiding.workdir, 1)
    task = problem.build(finished_avoiding.config, finished_avoiding.workdir)
    seen = first(task.held_out.observation, 3)
    raw = task.scaler.unscale_observation(seen.observations)
    found = teacher.act(policy.History(raw, seen.valid), KEY)
    ratio = samplers.ratios(task.teacher.schedule, 1)[0]
    prior_key, _ = jax.random.split(KEY)
    prior = ratio * jax.random.normal(prior_key, found.shape)
    expected = task.scaler.unscale_action(
        task.teacher.denoise(prior, seen, jnp.full(3, ratio)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert teachers.batch_rank(seen) == 1


def test_a_run_can_be_judged_again_with_other_steps(tmp_path, finished_avoiding, capsys,
                                                    monkeypatch):
    """In the same workdir: nothing is trained again, the report is of what was asked for."""
    less_is_measured(monkeypatch)
    config = finished_avoiding.config.copy_and_resolve_references()
    config.stages = ("consistency", "evaluate")
    config.teacher.workdir = str(finished_avoiding.workdir)
    config.consistency.update(num_iterations=2, batch_size=4, num_scales=4)
    config.evaluate.update(student_steps=(2,), teacher_steps=())
    stages.run(config, tmp_path)
    capsys.readouterr()
    config.evaluate.update(student_steps=(3, 1), teacher_steps=(4,))
    report = stages.run(config, tmp_path)
    printed = capsys.readouterr().out
    assert "[consistency] finished before; skipped" in printed and "4-step teacher" in printed
    student = report["student"]
    assert (student["acting"], student["network_calls"], student["kind"]) == ("3_steps", 3, "cd")
    assert list(student["other_ways_of_acting"]) == ["1_steps"]
    assert report["few_step_teachers"]["4"]["network_calls"] == 4
    assert "nll_held_out" not in student and student["mmd"] > 0
