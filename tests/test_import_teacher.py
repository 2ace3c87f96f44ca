"""Published PyTorch teachers: the same function here, kept as a teacher, distilled; refusals.

The published networks are written out once more, in NumPy, for checkpoints made up here. Those of
`VDD_SHARED_DATA` come with outputs of the published code.
"""

import builtins
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import documents
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import yaml
from small_runs import less_is_compiled, run_main
from tiny_config import tiny

from vdd_jax import checkpoint, import_teacher, problem, stages, teachers, torch_checkpoints
from vdd_jax import config as config_lib
from vdd_jax.core import preconditioning
from vdd_jax.hydra_settings import Settings, SettingsError
from vdd_jax.models import denoiser
from vdd_jax.policy import load, load_teacher
from vdd_jax.policy_input import History
from vdd_jax.types import Context

OBS, A, T, G, D, DEPTH, HEADS = 3, 2, 4, 2, 8, 2, 2
B, HIDDEN, STEPS = 5, 7, 6
FORMS = ("beso", "d3il_ddpm")
RNG = np.random.default_rng(0)
S, X, GOAL = (RNG.normal(size=shape).astype(np.float32) for shape in (
    (B, T, OBS), (B, T, A), (B, G, OBS)))
LEVELS = {"beso": np.float32([0.1, 0.2, 0.5, 0.9, 1.0]), "d3il_ddpm": np.float32([0, 1, 2.5, 4, 5])}
close = {"rtol": 0, "atol": 1e-5}


# ---- checkpoints in the published form

def state_of(form, goal=True, hidden=True) -> dict:
    """Random parameters under their published names, as large as trained ones."""
    rng, prefix = np.random.default_rng(1), torch_checkpoints.FORMATS[form].prefix
    state = {"pos_emb": 0.3 * rng.normal(size=(1, T + 1 + G * goal, D))}

    def layer(name, *shape):
        state[f"{name}.weight"] = rng.normal(size=shape) / np.sqrt(shape[-1])
        state[f"{name}.bias"] = 0.2 * rng.normal(size=shape[0])

    def norm(name):
        state[f"{name}.weight"] = 1 + 0.2 * rng.normal(size=D)
        state[f"{name}.bias"] = 0.2 * rng.normal(size=D)

    layer("tok_emb", D, OBS)
    layer("action_emb", D, A)
    for i in range(DEPTH):
        norm(f"blocks.{i}.ln1")
        norm(f"blocks.{i}.ln2")
        for name in ("key", "query", "value", "proj"):
            layer(f"blocks.{i}.attn.{name}", D, D)
        layer(f"blocks.{i}.mlp.0", 4 * D, D)
        layer(f"blocks.{i}.mlp.2", D, 4 * D)
        size = 1 + 2 * T + G * goal
        state[f"blocks.{i}.attn.mask"] = np.tri(size)[None, None]
    norm("ln_f")
    if form == "beso":
        layer("sigma_emb", D, 1)
    else:
        layer("time_emb.1", 2 * D, D)
        layer("time_emb.3", D, 2 * D)
    if hidden:
        layer("action_pred.0", HIDDEN, D)
        layer("action_pred.2", A, HIDDEN)
    else:
        layer("action_pred", A, D)
    return {prefix + name: v.astype(np.float32) for name, v in state.items()}


def settings_of(form, goal=True, hidden=True) -> dict:
    """What hydra would have written beside them."""
    network = {
        "_target_": "somewhere." + torch_checkpoints.FORMATS[form].kind, "state_dim": "${obs_dim}",
        "action_dim": A, "goal_conditioned": goal, "embed_dim": "${sizes.width}", "n_layers": DEPTH,
        "n_heads": HEADS, "goal_seq_len": G, "obs_seq_len": "${window_size}", "attn_pdrop": 0.3,
        "resid_pdrop": 0.1, "linear_output": not hidden,
    }
    tree = {"obs_dim": OBS, "window_size": T, "sizes": {"width": D}, "scale_data": False,
            "name": "${now:%Y-%m-%d}"}
    if form == "beso":
        tree["agents"] = {
            "_target_": "beso.agents.BesoAgent", "sampler_type": "euler_ancestral",
            "num_sampling_steps": 3, "sigma_min": 0.05, "sigma_max": "1e0",
            "model": {"sigma_data": 0.5, "inner_model": network}}
    else:
        tree["agents"] = {"model": {
            "beta_schedule": "cosine", "n_timesteps": STEPS, "predict_epsilon": True,
            "clip_denoised": False, "model": network}}
    return tree


def changed(tree, **values):
    """A copy with `a__b=value` put in; None: taken out."""
    tree = json.loads(json.dumps(tree))
    for name, value in values.items():
        *groups, leaf = name.split("__")
        node = tree
        for group in groups:
            node = node[group]
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    return tree


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(form, state, settings) → directory`; its arrays are read without PyTorch."""
    held = {}

    def load_arrays(file):
        return held[file]

    def make(form, state=None, settings=None):
        directory = tmp_path / f"published_{len(held)}"
        (directory / ".hydra").mkdir(parents=True)
        settings = settings_of(form) if settings is None else settings
        (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))
        held[directory / "model_state_dict.pth"] = state_of(form) if state is None else state
        monkeypatch.setattr(torch_checkpoints, "_load", load_arrays)
        return directory

    return make


# ---- the published networks, written out

def published(state, form, s, x, goal, level):
    """F of all actions of a window `[B, t, A]`, t ≤ T, one sequence as it stands."""
    prefix = torch_checkpoints.FORMATS[form].prefix
    state = {name.removeprefix(prefix): v.astype(np.float64) for name, v in state.items()}

    def layer(name, v):
        return v @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, v):
        v = v - v.mean(-1, keepdims=True)
        v = v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-5)
        return v * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(v):
        return v * 0.5 * (1 + scipy.special.erf(v / np.sqrt(2)))

    if form == "beso":
        first = layer("sigma_emb", np.log(level)[:, None] / 4)
    else:
        angles = level[:, None] * 1e4 ** (-np.arange(D // 2) / (D // 2 - 1))
        v = layer("time_emb.1", np.concatenate([np.sin(angles), np.cos(angles)], axis=-1))
        first = layer("time_emb.3", v * np.tanh(np.log1p(np.exp(v))))
    places, num, t = state["pos_emb"][0], goal.shape[1], s.shape[1]
    body = np.stack([layer("tok_emb", s), layer("action_emb", x)], axis=2)
    body = (body + places[num : num + t, None]).reshape(len(s), 2 * t, D)
    v = np.concatenate([first[:, None], layer("tok_emb", goal) + places[:num], body], axis=1)
    size = v.shape[1]
    for i in range(DEPTH):
        h = norm(f"blocks.{i}.ln1", v)
        q, k, u = (layer(f"blocks.{i}.attn.{name}", h).reshape(len(s), size, HEADS, -1)
                   for name in ("query", "key", "value"))
        logits = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(D // HEADS)
        weights = scipy.special.softmax(np.where(np.tri(size), logits, -np.inf), axis=-1)
        out = np.einsum("bhij,bjhd->bihd", weights, u).reshape(len(s), size, D)
        v = v + layer(f"blocks.{i}.attn.proj", out)
        v = v + layer(f"blocks.{i}.mlp.2",
                      gelu(layer(f"blocks.{i}.mlp.0", norm(f"blocks.{i}.ln2", v))))
    out = norm("ln_f", v)[:, 2 + num :: 2]
    if "action_pred.weight" in state:
        return layer("action_pred", out)
    out = layer("action_pred.0", out)
    out = gelu(out) if form == "d3il_ddpm" else out * scipy.special.expit(out)
    return layer("action_pred.2", out)


def configured(found):
    config = config_lib.default().teacher
    values = dict(found.teacher)
    for group in ("noise", "sampler"):
        config[group].update(values.pop(group))
    config.update(values)
    return config


def network(found, **changes):
    """Ours of a published teacher: (x, level, context, method, …) → F."""
    config = configured(found)
    config.update(**changes)
    model, schedule = denoiser.build(config, found.sizes.action_dim), teachers.make_schedule(config)
    params = jax.tree.map(jnp.asarray, found.params)

    def call(x, level, context, method="all_actions", **extra):
        noise = 0.25 * jnp.log(schedule.ratio(jnp.asarray(level)))
        return model.apply({"params": params}, x, noise, context,
                           method=getattr(model, method), **extra)

    return jax.jit(call, static_argnames=("method", "train"))


def window(s, goal, size=T, valid=None, x=None) -> Context:
    """The context of the first steps, those that are lacking before them filled in."""
    lacking = size - s.shape[1]
    s = np.concatenate([np.repeat(s[:, :1], lacking, axis=1), s], axis=1)
    valid = np.broadcast_to(np.arange(size) >= lacking, s.shape[:2])
    past = np.zeros((len(s), size - 1, A), np.float32) if x is None else x[:, :-1]
    return Context(*(jnp.asarray(v) for v in (s, np.zeros_like(s), valid, past, goal)))


def padded(x, size=T):
    """Actions of a short window with numbers before them that nobody may look at."""
    return np.concatenate([np.full((len(x), size - x.shape[1], x.shape[2]), 9, x.dtype), x], axis=1)


every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@pytest.mark.parametrize("goal, hidden", [(True, True), (False, False)])
def test_the_network_is_the_published_one(made, form, goal, hidden):
    """All actions of a window, in whole windows and in those of the first steps of an episode,
    which are shorter there and filled up here; of a chain between its steps too."""
    state = state_of(form, goal, hidden)
    found = torch_checkpoints.read(made(form, state, settings_of(form, goal, hidden)), form)
    ours, goals = network(found), GOAL if goal else GOAL[:, :0]
    for t in range(1, T + 1):
        expected = published(state, form, S[:, :t], X[:, :t], goals, LEVELS[form])
        out = ours(padded(X[:, :t]), LEVELS[form], window(S[:, :t], goals))
        np.testing.assert_allclose(out[:, T - t :], expected, **close)
    assert np.abs(expected).max() > 0.3


@every_form
@pytest.mark.parametrize("change", [
    {"gelu": "tanh"}, {"positions": "last"}, {"activation": "tanh"}, {"heads": 1}])
def test_what_is_told_apart_matters(made, form, change):
    """With another choice it is another function: the test above would see it."""
    found = torch_checkpoints.read(made(form), form)
    context, x = window(S[:, :2], GOAL), padded(X[:, :2])
    difference = network(found)(x, LEVELS[form], context) - network(found, **change)(
        x, LEVELS[form], context)
    assert np.abs(difference[:, -2:]).max() > 1e-4


def test_the_normalisation_is_that_of_pytorch(made):
    """Where the residual stream is small, what is added to its variance tells; scaled at import,
    ours adds the same."""
    state = state_of("beso", hidden=False)
    quiet = ("tok_emb", "action_emb", "sigma_emb", "pos_emb")
    state = {name: 1e-3 * v if name.split(".")[1] in quiet else v for name, v in state.items()}
    found = torch_checkpoints.read(made("beso", state, settings_of("beso", hidden=False)), "beso")
    expected = published(state, "beso", S, X, GOAL, LEVELS["beso"])
    context = window(S, GOAL)
    np.testing.assert_allclose(network(found)(X, LEVELS["beso"], context), expected, **close)
    scale = 1 / torch_checkpoints.SHRINK
    larger = {**found.params, "states": jax.tree.map(lambda v: scale * v, found.params["states"])}
    out = network(found._replace(params=larger))(X, LEVELS["beso"], context)
    assert np.abs(out - expected).max() > 1e-3


@every_form
@pytest.mark.parametrize("missing", [0, 2])
def test_all_ways_of_asking_are_one_function(made, form, missing):
    """Whole, behind a cached prefix, with samples, teacher-forced and in training."""
    found = torch_checkpoints.read(made(form), form)
    ask, calm = network(found), network(found, dropout=0.0, attention_dropout=0.0)
    context, level = window(S[:, missing:], GOAL), LEVELS[form]
    whole = ask(X, level, context)
    past = X[:, :-1]
    np.testing.assert_allclose(
        ask(X[:, -1], level, context, "__call__", past=past), whole[:, -1], **close)
    np.testing.assert_allclose(
        calm(X[:, -1], level, context, "__call__", past=past, train=True,
             rngs={"dropout": jax.random.key(0)}), whole[:, -1], **close)
    for method, extra in (("each_action", {"past": past}), ("all_actions", {})):
        found = ask(np.stack([X, X + 1]), level, context, method, **extra)
        np.testing.assert_allclose(found[0, :, missing:], whole[:, missing:], **close)
        assert np.abs(found[1] - found[0]).max() > 0.1


# ---- the checkpoints with outputs of the published code

SHARED = os.environ.get("VDD_SHARED_DATA")
EXAMPLES = {"beso_plain": "beso", "beso_goal_conditioned": "beso", "ddpm_gpt": "d3il_ddpm"}
shared = pytest.mark.skipif(not SHARED, reason="VDD_SHARED_DATA names no directory")


def example(name) -> Path:
    return Path(SHARED, "torch_checkpoints", name)


@shared
@pytest.mark.parametrize("name", EXAMPLES)
def test_outputs_are_those_of_the_published_code(name):
    """The denoiser's (BESO) or the ε (DDPM) of all actions, by the teacher's joint score, in whole
    windows and in the first steps of them (causal: their outputs are the same)."""
    pytest.importorskip("torch", reason="reads PyTorch checkpoints")
    found = torch_checkpoints.read(example(name), EXAMPLES[name])
    pairs = dict(np.load(example(name) / "parity.npz"))
    teacher = teachers.from_network(
        configured(found), jax.tree.map(jnp.asarray, found.params), found.sizes.action_dim)
    x, s = pairs["actions"], pairs["states"]
    goal = pairs["goals"] if found.sizes.goal_length else np.zeros((len(s), 0, s.shape[2]))
    if "sigma" in pairs:
        level, expected = pairs["sigma"], pairs["denoised"]
    else:
        level, expected = pairs["timestep"].astype(np.float32), pairs["epsilon"]
        np.testing.assert_allclose(teacher.schedule.sigma(level),
                                   pairs["sqrt_one_minus_alphas_cumprod"][pairs["timestep"]],
                                   **close)
    sigma, alpha = (np.asarray(f(level))[:, None, None] for f in (
        teacher.schedule.sigma, teacher.schedule.alpha))
    assert len(s) > 3 and np.abs(expected).max() > 0.4
    score = jax.jit(teacher.joint_score)
    for t in range(1, s.shape[1] + 1):
        context = window(s[:, :t], goal, s.shape[1])
        noised = padded(x[:, :t], s.shape[1])
        of_x = np.asarray(score(noised, context, level))
        out = (noised + sigma**2 * of_x) / alpha if "sigma" in pairs else -sigma * of_x
        np.testing.assert_allclose(out[:, -t:], expected[:, :t], **close)


@shared
def test_an_example_is_distilled(tmp_path):
    """The command, a run of four iterations on recorded data of its sizes, and an action."""
    pytest.importorskip("torch", reason="reads PyTorch checkpoints")
    command = [sys.executable, "-m", "vdd_jax.import_teacher", "--format=beso",
               f"--path={example('beso_plain')}", f"--out={tmp_path / 'teacher'}"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0 and "scaler      identity: its data were" in ran.stdout, ran.stderr
    assert "Traceback" not in ran.stderr
    student_acts(tmp_path)


@shared
@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize("page", ["docs/teachers.md", "docs/distil_my_policy.md"])
def test_the_commands_of_the_documents(page, tmp_path, monkeypatch, capsys):
    """The blocks that name this file, as they stand: what they name is there, and … is what the
    import has printed. The student is distilled at a small size, evaluated, and acts."""
    pytest.importorskip("torch", reason="reads PyTorch checkpoints")
    monkeypatch.chdir(tmp_path)
    less_is_compiled(monkeypatch)
    Path("configs").symlink_to(documents.ROOT / "configs")
    Path("path/to").mkdir(parents=True)
    for name in ("CHECKPOINT", "path/to/checkpoint"):
        Path(name).symlink_to(example("beso_plain"))
    rng = np.random.default_rng(0)
    for name in ("PATH", "demonstrations.npz"):
        with open(name, "wb") as file:
            np.savez(file, observations=rng.normal(size=(40, 4)), actions=rng.normal(size=(40, 2)),
                     episode_ends=[8, 20, 30, 40])
    np.savez("scaler.npz", observation_mean=np.zeros(4), observation_std=np.ones(4),
             action_min=-np.ones(2), action_max=np.ones(2))
    found = documents.blocks(documents.TEXT[page], page)
    taken, distilled = (words for block in found if Path(__file__).name in block.reason
                        for words in documents.commands(block))
    assert taken[:3] == ["python", "-m", "vdd_jax.import_teacher"]
    import_teacher.main(taken[3:])
    printed = dict(shlex.split(line)[0].split("=", 1)
                   for line in capsys.readouterr().out.splitlines() if "--config." in line)
    given = {word.split("=", 1)[0] for word in distilled if word.startswith("--config.")}
    assert given - {"--config.distill.trunk_from_teacher"} <= set(printed) and len(printed) > 7
    if distilled[-1] == "…":
        distilled[-1:] = [f"{flag}={value}" for flag, value in printed.items() if flag not in given]
    assert distilled[:3] == ["python", "-m", "vdd_jax.main"]
    run_main(distilled[2:], set())
    (workdir,) = (word.split("=")[1] for word in distilled if word.startswith("--workdir="))
    report = json.loads(Path(workdir, "report.json").read_text())
    assert report["config"]["stages"] == ["distill", "evaluate"]
    seen = History(np.zeros((5, 4), np.float32), past_actions=np.zeros((4, 2), np.float32))
    assert np.isfinite(load(workdir).act(seen, jax.random.key(0))).all()


@shared
def test_what_the_examples_say_of_themselves():
    """Sizes by way of references, heads of the network and not of a key of the same name beside,
    the goal that is not used, spacing and scaling."""
    pytest.importorskip("torch", reason="reads PyTorch checkpoints")
    plain, goal, ddpm = (torch_checkpoints.read(example(n), f) for n, f in EXAMPLES.items())
    assert plain.sizes == (4, 2, 5, 0, 36, 3, 3, 100)
    assert goal.sizes == (11, 3, 4, 2, 48, 2, 4, 0)
    assert ddpm.sizes == (4, 2, 5, 0, 24, 2, 4, 0)
    assert (plain.scaled, plain.range_of_actions, plain.clips) == (True, True, False)
    assert (goal.scaled, goal.range_of_actions, goal.clips) == (False, False, False)
    assert (ddpm.scaled, ddpm.range_of_actions, ddpm.clips) == (True, False, True)
    assert (plain.teacher["sigma_min"], plain.teacher["sigma_max"]) == (0.05, 1.0)
    assert plain.teacher["sampler"] == {"kind": "ddim", "spacing": "log", "num_steps": 3}
    assert ddpm.teacher["sampler"] == {"kind": "ddpm", "spacing": "time", "num_steps": 8}


# ---- the teacher that is kept

def kept(out):
    """Teacher, scaler and settings of an imported one, as a stage takes them."""
    config = tiny(task__name="recorded", task__window=T, task__goal_length=G,
                  task__observation_dim=OBS, task__action_dim=A, teacher__workdir=str(out))
    return problem.load_teacher(config, out / "elsewhere")


@every_form
def test_a_teacher_is_kept_with_all_that_is_known_of_it(made, form, tmp_path):
    """Settings, sizes, identity, parameters: rebuilt, it has the score of the network."""
    out = tmp_path / "out"
    directory = made(form)
    said = import_teacher.run(form, directory, out)
    assert "identity: its data were not scaled" in said
    assert f"--config.teacher.workdir={out}" in said
    teacher, scaler, settings = kept(out)
    found = torch_checkpoints.read(directory, form)
    assert settings.teacher == configured(found)
    task = settings.task
    assert (task.name, task.window, task.goal_length, task.observation_dim, task.action_dim) == (
        "recorded", T, G, OBS, A)
    for name, value in scaler._asdict().items():
        if value is not None:  # of images and angles
            np.testing.assert_array_equal(value, 0.0 if name.endswith("mean") else 1.0)
    own = settings.teacher
    expected = {"beso": ("ve", "karras", 0.5, "linear", "euler_ancestral", "log", 3),
                "d3il_ddpm": ("ddpm_cosine", "eps", 1.0, "sinusoidal", "ddpm", "time", STEPS)}
    assert (own.schedule, own.prediction, own.sigma_data, own.noise_embedding, own.sampler.kind,
            own.sampler.spacing, own.sampler.num_steps) == expected[form]
    assert (own.head_width, own.attention_dropout, own.dropout) == (HIDDEN, 0.3, 0.1)
    context, t = window(S, GOAL), jnp.asarray(LEVELS[form])[:, None]
    seen, noise = preconditioning.network_input(teacher.schedule, own.sigma_data, X, t)
    out = published(state_of(form), form, S, np.asarray(seen, np.float64), GOAL, LEVELS[form])
    score = preconditioning.to_score(own.prediction, teacher.schedule, own.sigma_data, out, X, t)
    np.testing.assert_allclose(jax.jit(teacher.joint_score)(X, context, t[:, 0]), score, rtol=1e-4,
                               atol=1e-4)


def test_d3il_steps_evenly_in_the_noise_and_other_samplers_are_replaced(made):
    settings = changed(settings_of("beso"), agents___target_="agents.beso_agent.BesoAgent",
                       agents__sampler_type="lms")
    found = torch_checkpoints.read(made("beso", settings=settings), "beso")
    assert found.teacher["sampler"]["spacing"] == "time"
    assert found.teacher["sampler"]["kind"] == "dpmpp_2m" and "'lms'" in found.notes[0]


STATISTICS = {
    "observation_mean": [1.0, 2.0, 3.0], "observation_std": [2.0, 0.5, 0.0],
    "action_mean": [1.0, -1.0], "action_std": [0.5, 2.0],
    "action_min": [0.0, -7.0], "action_max": [1.5, 3.0]}


def with_scaler(made, tmp_path, form, values, **settings):
    file = tmp_path / "scaler.npz"
    np.savez(file, **{k: v for k, v in {**STATISTICS, **values}.items() if v is not None})
    directory = made(form, settings=changed(settings_of(form), scale_data=True, **settings))
    return directory, file


def test_a_scaler_of_mean_and_std(made, tmp_path):
    """And the bounds of a DDPM's sampler, the widest; a number that does not vary is not scaled."""
    directory, file = with_scaler(made, tmp_path, "d3il_ddpm", {},
                                  agents__model__clip_denoised=True)
    said = import_teacher.run("d3il_ddpm", directory, tmp_path / "out", file)
    _, scaler, settings = kept(tmp_path / "out")
    np.testing.assert_allclose(scaler.scale_observation(jnp.array([3.0, 3.0, 4.0])), [1, 2, 1])
    np.testing.assert_allclose(scaler.unscale_action(jnp.array([2.0, 2.0])), [2, 3])
    np.testing.assert_allclose(scaler.step_std, [2, 0.5, 1])
    assert settings.teacher.sampler.clip == 3.0 and "clipped to ±3," in said and str(file) in said
    np.testing.assert_allclose(scaler.within_range(jnp.array([-9.0, 9.0])), [0, 3])


def test_a_scaler_of_least_and_greatest(made, tmp_path):
    """BESO's min-max scaler is for actions; observations are scaled by mean and std."""
    directory, file = with_scaler(made, tmp_path, "beso", {"step_std": [0.1, 0.2, 0.3]},
                                  workspaces={"use_minmax_scaler": True})
    import_teacher.run("beso", directory, tmp_path / "out", file)
    _, scaler, settings = kept(tmp_path / "out")
    np.testing.assert_allclose(scaler.scale_action(jnp.array([1.5, -7.0])), [1, -1])
    np.testing.assert_allclose(scaler.scale_observation(jnp.array([3.0, 3.0, 4.0])), [1, 2, 1])
    np.testing.assert_allclose(scaler.step_std, [0.1, 0.2, 0.3])
    assert settings.teacher.sampler.clip == 0.0


def test_without_a_scaler_it_says_so(made, tmp_path):
    directory, _ = with_scaler(made, tmp_path, "d3il_ddpm", {}, agents__model__clip_denoised=True)
    said = import_teacher.run("d3il_ddpm", directory, tmp_path / "out")
    assert "identity: its data were scaled, and the checkpoint does not hold by what" in said
    assert "not known here (action_min and action_max of --scaler); ours to ±5" in said
    _, scaler, settings = kept(tmp_path / "out")
    np.testing.assert_array_equal(scaler.action_std, 1.0)
    assert scaler.action_low is None
    assert settings.teacher.sampler.clip == import_teacher.ASSUMED_BOUND


def test_bounds_of_unscaled_actions(made, tmp_path):
    """A file says them; without one there are none, and that is said."""
    settings = changed(settings_of("d3il_ddpm"), agents__model__clip_denoised=True)
    directory, file = made("d3il_ddpm", settings=settings), tmp_path / "bounds.npz"
    np.savez(file, **STATISTICS)
    for given, bound, words in ((file, 7.0, "clipped to ±7"), (None, 0.0, "ours does not")):
        out = tmp_path / f"out_{bound}"
        assert words in import_teacher.run("d3il_ddpm", directory, out, given)
        _, scaler, own = kept(out)
        assert own.teacher.sampler.clip == bound
        np.testing.assert_array_equal(scaler.action_mean, 0.0)
        if given:
            np.testing.assert_allclose(scaler.within_range(jnp.array([-9.0, 9.0])), [0, 3])
        else:
            assert scaler.action_low is None


@pytest.mark.parametrize("values, words", [
    ({"action_std": None, "observation_mean": None}, "lacks observation_mean, action_std"),
    ({"action_std": [1.0]}, "action_std .* should be 2 finite numbers"),
    ({"observation_mean": [1.0, np.nan, 0.0]}, "observation_mean .* should be 3 finite"),
    ({"action_std": [1.0, -1.0]}, "below 0"),
    ({"action_min": [2.0, 0.0]}, "action_min .* above action_max"),
])
def test_a_scaler_that_cannot_be_used(made, tmp_path, values, words):
    directory, file = with_scaler(made, tmp_path, "d3il_ddpm", values)
    with pytest.raises(torch_checkpoints.NotImported, match=words):
        import_teacher.run("d3il_ddpm", directory, tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


def test_other_scalers_that_cannot_be_used(made, tmp_path):
    """A file that is not there or no .npz, one for a teacher of unscaled data, one of mean and std
    for actions that were scaled to a range."""
    directory, file = with_scaler(made, tmp_path, "beso", {"action_min": None},
                                  workspaces={"use_minmax_scaler": True})
    (tmp_path / "text.npz").write_text("no arrays")
    for given, of, words in (
            (tmp_path / "none.npz", directory, "no file"),
            (tmp_path / "text.npz", directory, "not a file of NumPy arrays"),
            (file, directory, "lacks action_min"), (file, made("beso"), "were not scaled")):
        with pytest.raises(torch_checkpoints.NotImported, match=words):
            import_teacher.run("beso", of, tmp_path / "out", given)


# ---- from the import to an action

def student_acts(directory: Path) -> None:
    """Distils `directory/teacher` on random recorded data and lets the student act."""
    with checkpoint.Checkpoints(directory / "teacher" / "teacher" / "checkpoints", True) as kept:
        _, settings = problem.scaler_and_config(kept, "teacher")
    task, rng = settings.task, np.random.default_rng(0)
    sizes = task.observation_dim, task.action_dim
    file = directory / "recorded.npz"
    np.savez(file, observations=rng.normal(size=(40, sizes[0])),
             actions=rng.normal(size=(40, sizes[1])), episode_ends=[8, 20, 30, 40])
    low, high = import_teacher.levels(settings.teacher)
    config = tiny(
        stages=("distill",), task__name="recorded", task__demonstrations=str(file),
        task__window=task.window, task__goal_length=task.goal_length,
        teacher__workdir=str(directory / "teacher"), distill__num_iterations=4,
        distill__noise__low=low, distill__noise__high=high, student__fourier=1)
    config.task.update(observation_dim=sizes[0], action_dim=sizes[1])
    stages.run(config, directory / "student")
    file.unlink()  # a policy needs no demonstrations
    observed = np.zeros((task.window, sizes[0]), np.float32)
    goal = np.zeros((task.goal_length, sizes[0]), np.float32) if task.goal_length else None
    past = np.zeros((task.window - 1, sizes[1]), np.float32)
    seen = History(observed, past_actions=past, goal=goal)
    student = load(directory / "student")
    action = student.act(seen, jax.random.key(0))
    assert action.shape == (sizes[1],) and np.isfinite(action).all()
    assert np.isfinite(student.log_prob(seen, action))
    teacher = load_teacher(directory / "student")
    assert np.isfinite(teacher.act(seen, jax.random.key(0))).all()


def test_from_the_import_to_an_action(made, tmp_path, capsys):
    """A chain with a goal: imported by the command, distilled on a file of demonstrations."""
    import_teacher.main(["--format=d3il_ddpm", f"--path={made('d3il_ddpm')}",
                         f"--out={tmp_path}/teacher"])
    assert "written to" in capsys.readouterr().out
    student_acts(tmp_path)


# ---- refusals

def refusal(capsys, *arguments) -> str:
    """The one sentence with which the command ends, with exit code 1."""
    with pytest.raises(SystemExit) as ended:
        import_teacher.main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def without(form, *names):
    return {k: v for k, v in state_of(form).items() if k not in names}


BAD_STATES = {
    "it lacks inner_model.ln_f.bias": without("beso", "inner_model.ln_f.bias"),
    "it has inner_model.extra.weight beside": {**state_of("beso"),
                                               "inner_model.extra.weight": np.zeros(2)},
    "and 4 more": without("beso", *list(state_of("beso"))[-9:]),
    r"inner_model.tok_emb.weight \(8, 4\), not \(8, 3\)": {
        **state_of("beso"), "inner_model.tok_emb.weight": np.zeros((D, 4))},
    "no name begins with inner_model.…": state_of("d3il_ddpm"),
    "NaN or infinity in inner_model.action_emb.bias": {
        **state_of("beso"), "inner_model.action_emb.bias": np.full(D, np.nan)},
    "not the causal mask": {**state_of("beso"),
                            "inner_model.blocks.1.attn.mask": np.ones((1, 1, 11, 11))},
}


@pytest.mark.parametrize("words", BAD_STATES)
def test_parameters_that_are_not_the_networks(made, tmp_path, capsys, words):
    """Missing and unexpected names are named; nothing is written."""
    directory = made("beso", BAD_STATES[words])
    said = refusal(capsys, "--format=beso", f"--path={directory}", f"--out={tmp_path / 'out'}")
    with pytest.raises(torch_checkpoints.NotImported, match=words):
        torch_checkpoints.read(directory, "beso")
    assert str(directory) in said and not (tmp_path / "out").exists()


BAD_SETTINGS = [
    ("beso", {"agents__model__inner_model__state_dim": "${gone}"}, "gone, to which .*state_dim"),
    ("beso", {"agents__model__inner_model__n_heads": 3}, "3 heads"),
    ("beso", {"agents__model__inner_model__n_layers": "two"}, "n_layers .* should be a whole num"),
    ("beso", {"agents__model__inner_model__n_layers": 0}, "at least 1"),
    ("beso", {"agents__model__inner_model__goal_conditioned": None}, "no setting .*goal_cond"),
    ("beso", {"agents__sigma_min": 3.0}, "sigma_min is not below"),
    ("beso", {"window_size": 40}, "places for 32"),
    ("beso", {"scale_data": None}, "scale_data"),
    ("beso", {"agents__model__inner_model___target_": "a.VisionDiffusionGPT"}, "no teacher of"),
    ("beso", {"agents": None}, "no teacher of"),
    ("d3il_ddpm", {"agents__model__beta_schedule": "vp"}, "'vp'.*'cosine' and 'linear'"),
]


@pytest.mark.parametrize("form, change, words", BAD_SETTINGS)
def test_settings_that_cannot_be_taken_over(made, tmp_path, form, change, words):
    directory = made(form, settings=changed(settings_of(form), **change))
    with pytest.raises(import_teacher.USER_ERRORS, match=words):
        import_teacher.run(form, directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_other_format_is_named(made, tmp_path, capsys):
    said = refusal(capsys, "--format=d3il_ddpm", f"--path={made('beso')}", f"--out={tmp_path}/out")
    assert "a teacher of --format=beso, not d3il_ddpm" in said


def test_what_is_not_there(tmp_path, capsys):
    """The directory, the settings, the parameters."""
    ask = ("--format=beso", f"--path={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")
    assert "no directory" in refusal(capsys, *ask)
    (tmp_path / "in" / ".hydra").mkdir(parents=True)
    assert "config.yaml cannot be read" in refusal(capsys, *ask)
    file = tmp_path / "in" / ".hydra" / "config.yaml"
    file.write_text(yaml.safe_dump(settings_of("beso")))
    assert "no file" in refusal(capsys, *ask) and not (tmp_path / "out").exists()
    for text, words in (("a: [", "not plain YAML"), ("!!python/name:os.system\n", "not plain YAML"),
                        ("just text", "holds no settings")):
        file.write_text(text)
        assert words in refusal(capsys, *ask)


def test_nothing_is_overwritten(made, tmp_path, capsys):
    """Not a directory with anything in it, not a file."""
    directory = made("beso")
    (tmp_path / "out").mkdir()
    import_teacher.run("beso", directory, tmp_path / "out")  # empty: fine
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        ask = ("--format=beso", f"--path={directory}", f"--out={tmp_path / name}")
        assert "not an empty directory; nothing was written" in refusal(capsys, *ask)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "file"}) == before


def test_a_task_of_other_sizes(made, tmp_path, capsys):
    said = refusal(capsys, "--format=beso", f"--path={made('beso')}", f"--out={tmp_path / 'out'}",
                   "--task=avoiding")
    assert "observations have 3 numbers" in said and "'avoiding' 4 and 2" in said


def test_flags_that_are_wrong(capsys):
    assert "invalid choice: 'bet'" in refusal(capsys, "--format=bet", "--path=x", "--out=y")
    assert "--out" in refusal(capsys, "--format=beso", "--path=x")


def test_without_torch_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings_of("beso")))
    (tmp_path / "model_state_dict.pth").write_bytes(b"")
    real = builtins.__import__

    def refused(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    said = refusal(capsys, "--format=beso", f"--path={tmp_path}", f"--out={tmp_path / 'out'}")
    assert "pip install 'vdd_jax[torch]'" in said


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_files_that_are_no_state_dict(tmp_path, capsys, monkeypatch):
    """Of a pickle no code is run; a network that was pickled whole, other tensors, rubbish."""
    torch = pytest.importorskip("torch", reason="writes and reads PyTorch checkpoints")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings_of("beso")))
    file = tmp_path / "model_state_dict.pth"

    def refused():
        return refusal(capsys, "--format=beso", f"--path={tmp_path}", f"--out={tmp_path / 'out'}")

    file.write_bytes(pickle.dumps({"a": Evil()}))
    assert "not a PyTorch file of parameters alone" in refused()
    torch.save({"a": Evil()}, file)
    assert "not a PyTorch file of parameters alone" in refused()
    assert not (tmp_path / "ran").exists()
    for rubbish in (b"", b"rubbish", b"PK\x03\x04rubbish"):
        file.write_bytes(rubbish)
        assert "not a PyTorch file of parameters alone" in refused()
    torch.save({"step": 3}, file)
    assert "holds no teacher" in refused()
    torch.save({"weight": torch.zeros(2)}, file)
    assert "no name begins with inner_model.…" in refused()


def test_what_torch_wrote_is_read(tmp_path):
    """Under another name too, half precision as float32."""
    torch = pytest.importorskip("torch", reason="writes PyTorch checkpoints")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings_of("beso")))
    state = state_of("beso")
    torch.save({k: torch.tensor(v, requires_grad=True) for k, v in state.items()},
               tmp_path / "last_beso.pth")
    found = torch_checkpoints.read(tmp_path, "beso", "last_beso.pth")
    np.testing.assert_array_equal(found.params["last"]["kernel"],
                                  state["inner_model.action_pred.2.weight"].T)
    torch.save({k: torch.tensor(v).half() for k, v in state.items()}, tmp_path / "half.pth")
    found = torch_checkpoints.read(tmp_path, "beso", "half.pth")
    assert found.params["last"]["kernel"].dtype == np.float32


# ---- settings

def test_references_are_followed(tmp_path):
    """Over several steps and into groups; other interpolations stay text; 5e-4 is a number."""
    file = tmp_path / "config.yaml"
    file.write_text("a: ${b}\nb: ${group.c}\ngroup: {c: 3}\nalias: ${group}\n"
                    "rate: 5e-4\nlog: runs/${a}\nnone: null\nflag: true\n")
    settings = Settings.read(file)
    assert settings.value("a", int) == settings.value("alias.c", int) == 3
    assert settings.value("a", float) == 3.0 and settings.value("rate", float) == 5e-4
    assert settings.value("log", str) == "runs/${a}"
    assert settings.value("gone", int, 7) == 7
    assert "a" in settings and "gone" not in settings and "none" not in settings
    for name, kind in (("rate", int), ("log", float), ("a", bool), ("none", int), ("a", str)):
        with pytest.raises(SettingsError, match=f"{name} in .* it should be"):
            settings.value(name, kind)


def test_references_in_a_circle(tmp_path):
    settings = Settings({"a": "${b}", "b": "${a}"}, "here")
    with pytest.raises(SettingsError, match="refers to itself"):
        settings.value("a", int)
    with pytest.raises(SettingsError, match="here has no setting c"):
        settings.value("c", int)
