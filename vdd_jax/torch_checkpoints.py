"""Published PyTorch teachers as parameters of `models/denoiser.py`: BESO, and DDPM of D3IL.

Both are pre-normalised GPTs over [level, goal…, s₁, a₁, …, s_T, a_T] that denoise all actions of a
window together, as `TransformerDenoiser` with `window='all'` is. What is told apart here:

* query, key and value are three layers there, one here; kernels are transposed;
* one table of position embeddings there, of goals first, then of the window (its last row is never
  used); here two, with places for `MAX_WINDOW`;
* a normalisation adds 1e-5 to the variance there, 1e-6 here. Everything that is written to the
  residual stream is scaled by √(1e-6/1e-5), which gives the same normalised numbers;
* GELU is exact there, short windows start at the first place, the output may have a hidden layer
  (SiLU in BESO, GELU in DDPM), and DDPM embeds its step by sines and an MLP: options of ours.

BESO (Reuss et al. 2023): VE, Karras preconditioning. D3IL (Jia et al. 2024): a DDPM chain,
ε-prediction or x₀.
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdd_jax.hydra_settings import Settings, SettingsError

MAX_WINDOW = 32  # of models.transformer.StateTokens
SHRINK = math.sqrt(1e-6 / 1e-5)  # see above


class NotImported(RuntimeError):
    """A checkpoint that cannot be taken over; the text is for the user."""


class Sizes(NamedTuple):
    """Of a published network, from its settings."""

    observation_dim: int
    action_dim: int
    window: int  # T
    goal_length: int  # G
    width: int
    depth: int
    heads: int
    head_width: int  # 0: the output is one linear layer


class Published(NamedTuple):
    """A published teacher in this library's terms."""

    params: dict  # of denoiser.build(config.teacher, action_dim), NumPy
    sizes: Sizes
    teacher: dict  # values of config.teacher, `sampler` and `noise` groups of them
    scaled: bool  # whether it saw scaled data
    range_of_actions: bool  # whether actions were scaled to [−1, 1] by their least and greatest
    clips: bool  # whether its sampler bounds denoised actions
    notes: tuple[str, ...]  # what differs from what was published


class Format(NamedTuple):
    """Where the parts of a format stand."""

    prefix: str  # of the network's names among the parameters
    network: str  # group of its settings
    kind: str  # class that these name
    level: tuple[str, ...]  # layers that embed the noise level, the last one writes the token


FORMATS = {
    "beso": Format("inner_model.", "agents.model.inner_model", "DiffusionGPT", ("sigma_emb",)),
    "d3il_ddpm": Format("model.", "agents.model.model", "DiffusionTransformerNetwork",
                        ("time_emb.1", "time_emb.3")),
}

# samplers there → here; what is not here is replaced by the nearest of its kind
_SAMPLERS = {"ddim": "ddim", "euler": "euler", "heun": "heun", "dpmpp_2m": "dpmpp_2m",
             "euler_ancestral": "euler_ancestral"}


def read(directory: Path, form: str, weights: str = "model_state_dict.pth") -> Published:
    """The teacher in `directory`: its parameters `weights`, its settings `.hydra/config.yaml`.

    Args:
      form: one of `FORMATS`.

    Raises:
      NotImported, SettingsError: with a text for the user.
    """
    if not directory.is_dir():
        raise NotImported(f"there is no directory {directory}")
    settings = Settings.read(directory / ".hydra" / "config.yaml")
    _check_format(settings, directory, form)
    file = directory / weights
    state = _load(file)
    sizes = _sizes(settings, FORMATS[form], state)
    _check(state, file, form, sizes)
    params = _parameters(state, FORMATS[form], sizes)
    return (_beso if form == "beso" else _ddpm)(settings, params, sizes)


def _check_format(settings: Settings, directory: Path, form: str) -> None:
    def is_of(name):
        of = FORMATS[name]
        target = f"{of.network}._target_"
        return target in settings and settings.value(target, str).split(".")[-1] == of.kind

    if is_of(form):
        return
    here = f"{directory / '.hydra' / 'config.yaml'} describes"
    if others := [name for name in FORMATS if is_of(name)]:
        raise NotImported(f"{here} a teacher of --format={others[0]}, not {form}")
    raise NotImported(
        f"{here} no teacher of --format={form}: {FORMATS[form].network}._target_ should end with "
        f"{FORMATS[form].kind}")


def _load(file: Path) -> dict[str, np.ndarray]:
    """Arrays by name, float32; nothing but tensors is taken from the file."""
    if not file.is_file():
        raise NotImported(f"there is no file {file} (--weights names another one)")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise NotImported(
            "reading PyTorch checkpoints needs torch; pip install 'vdd_jax[torch]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is no state_dict; told below
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of rubbish the unpickler raises whatever it stumbles on
        reason = str(error).strip().split("\n")[0][:200]
        raise NotImported(f"{file} is not a PyTorch file of parameters alone: {reason}") from error
    if not isinstance(state, dict) or not state or not all(
            isinstance(v, torch.Tensor) for v in state.values()):
        raise NotImported(f"{file} holds no teacher: it should be a state_dict, tensors by name")
    return {name: v.detach().to(torch.float32).numpy() for name, v in state.items()}


def _sizes(settings: Settings, form: Format, state: dict) -> Sizes:
    def size(name):
        found = settings.value(f"{form.network}.{name}", int)
        if found < 1:
            raise SettingsError(f"{form.network}.{name} is {found}; it should be at least 1")
        return found

    hidden = state.get(form.prefix + "action_pred.0.bias", np.zeros(0))
    linear = settings.value(f"{form.network}.linear_output", bool, False)
    goal = settings.value(f"{form.network}.goal_conditioned", bool)
    sizes = Sizes(size("state_dim"), size("action_dim"), size("obs_seq_len"),
                  size("goal_seq_len") if goal else 0, size("embed_dim"), size("n_layers"),
                  size("n_heads"), 0 if linear else max(len(hidden), 1))
    if sizes.width % sizes.heads:
        raise SettingsError(f"embed_dim is {sizes.width}, which {sizes.heads} heads (n_heads) "
                            "cannot share evenly")
    if max(sizes.window, sizes.goal_length) > MAX_WINDOW:
        raise NotImported(f"its window has {sizes.window} observations and its goal "
                          f"{sizes.goal_length}; the transformer here has places for {MAX_WINDOW}")
    return sizes


def _expected(form: Format, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without the prefix."""
    width = sizes.width
    layers = {"tok_emb": (width, sizes.observation_dim), "action_emb": (width, sizes.action_dim)}
    if len(form.level) == 1:
        layers[form.level[0]] = (width, 1)
    else:
        layers |= {form.level[0]: (2 * width, width), form.level[1]: (width, 2 * width)}
    if sizes.head_width:
        layers |= {"action_pred.0": (sizes.head_width, width),
                   "action_pred.2": (sizes.action_dim, sizes.head_width)}
    else:
        layers["action_pred"] = (sizes.action_dim, width)
    shapes = {"pos_emb": (1, sizes.goal_length + sizes.window + 1, width),
              "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for i in range(sizes.depth):
        layers |= {f"blocks.{i}.attn.{name}": (width, width)
                   for name in ("query", "key", "value", "proj")}
        layers |= {f"blocks.{i}.mlp.0": (4 * width, width), f"blocks.{i}.mlp.2": (width, 4 * width)}
        shapes |= {f"blocks.{i}.{norm}.{what}": (width,)
                   for norm in ("ln1", "ln2") for what in ("weight", "bias")}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _check(state: dict, file: Path, form: str, sizes: Sizes) -> None:
    """The state holds what the settings promise, and nothing that would be left out."""
    prefix = FORMATS[form].prefix
    expected = {prefix + name: shape for name, shape in _expected(FORMATS[form], sizes).items()}
    masks = {f"{prefix}blocks.{i}.attn.mask" for i in range(sizes.depth)}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected and name not in masks]
    if len(missing) == len(expected):
        raise NotImported(f"{file} holds no teacher of --format={form}: no name begins with "
                          f"{prefix}… as it should; the first is {next(iter(state))}")
    wrong = []
    if missing:
        wrong.append(f"it lacks {_listed(missing)}")
    if unexpected:
        wrong.append(f"it has {_listed(unexpected)} beside")
    if misshapen := [f"{name} {state[name].shape}, not {shape}" for name, shape in expected.items()
                     if name in state and state[name].shape != shape]:
        wrong.append(f"it has {_listed(misshapen)}")
    if wrong:
        raise NotImported(f"{file} is not the network of its .hydra/config.yaml: "
                          + "; ".join(wrong))
    if bad := [name for name in expected if not np.isfinite(state[name]).all()]:
        raise NotImported(f"{file} holds NaN or infinity in {_listed(bad)}")
    for name in sorted(masks & set(state)):
        mask = state[name][0, 0]
        if not np.array_equal(mask != 0, np.tri(len(mask), dtype=bool)):
            raise NotImported(f"{name} of {file} is not the causal mask; this is another network")


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest


def _parameters(state: dict, form: Format, sizes: Sizes) -> dict:
    """Parameters of a `TransformerDenoiser`."""
    def layer(name, scale=1.0):
        weight, bias = (state[f"{form.prefix}{name}.{what}"] for what in ("weight", "bias"))
        return {"kernel": np.float32(scale) * weight.T, "bias": np.float32(scale) * bias}

    def norm(name):
        return {"scale": state[f"{form.prefix}{name}.weight"],
                "bias": state[f"{form.prefix}{name}.bias"]}

    def table(rows):
        return np.pad(np.float32(SHRINK) * rows, ((0, MAX_WINDOW - len(rows)), (0, 0)))

    def block(i):
        name = f"blocks.{i}"
        qkv = [layer(f"{name}.attn.{part}") for part in ("query", "key", "value")]
        return {
            "norm_1": norm(f"{name}.ln1"), "norm_2": norm(f"{name}.ln2"),
            "query_key_value": {k: np.concatenate([part[k] for part in qkv], axis=-1)
                                for k in ("kernel", "bias")},
            "project": layer(f"{name}.attn.proj", SHRINK),
            "up": layer(f"{name}.mlp.0"), "down": layer(f"{name}.mlp.2", SHRINK),
        }

    places, goal = state[form.prefix + "pos_emb"][0], sizes.goal_length
    states = {"embed": layer("tok_emb", SHRINK), "positions": table(places[goal:-1])}
    if goal:
        states["goal_positions"] = table(places[:goal])
    transformer = {f"block_{i}": block(i) for i in range(sizes.depth)}
    params = {"states": states, "actions": layer("action_emb", SHRINK),
              "level": layer(form.level[-1], SHRINK),
              "transformer": {**transformer, "norm": norm("ln_f")}}
    if len(form.level) == 2:
        params["level_hidden"] = layer(form.level[0])
    if sizes.head_width:
        return {**params, "hidden": layer("action_pred.0"), "last": layer("action_pred.2")}
    return {**params, "last": layer("action_pred")}


def _network(settings: Settings, form: Format, sizes: Sizes) -> dict:
    """What `config.teacher` says of the network, the same for both."""
    return {
        "backbone": "transformer", "window": "all", "width": sizes.width, "depth": sizes.depth,
        "heads": sizes.heads, "head_width": sizes.head_width, "history": "absolute", "fourier": 0,
        "gelu": "erf", "positions": "first",
        "dropout": settings.value(f"{form.network}.resid_pdrop", float, 0.0),
        "attention_dropout": settings.value(f"{form.network}.attn_pdrop", float, 0.0),
    }


def _scaled(settings: Settings) -> bool:
    for name in ("scale_data", "agents.scale_data", "workspaces.scale_data"):
        if name in settings:
            return settings.value(name, bool)
    raise SettingsError("its settings do not say whether its data were scaled (scale_data)")


def _beso(settings: Settings, params: dict, sizes: Sizes) -> Published:
    sigma_data = settings.value("agents.model.sigma_data", float)
    asked = settings.value("agents.sampler_type", str)
    kind = _SAMPLERS.get(asked, "euler_ancestral" if "ancestral" in asked or "sde" in asked
                         else "dpmpp_2m")
    # D3IL's agent steps evenly in σ, that of BESO in log σ; no setting says so
    d3il = settings.value("agents._target_", str, "").startswith("agents.")
    teacher = {
        **_network(settings, FORMATS["beso"], sizes),
        "activation": "silu", "schedule": "ve", "prediction": "karras", "sigma_data": sigma_data,
        "sigma_min": settings.value("agents.sigma_min", float),
        "sigma_max": settings.value("agents.sigma_max", float),
        # its loglogistic density has location log σ_data and scale .5, whatever its settings say
        "noise": {"density": "log_logistic", "mean": math.log(sigma_data), "scale": 0.5},
        "sampler": {"kind": kind, "spacing": "time" if d3il else "log",
                    "num_steps": settings.value("agents.num_sampling_steps", int)},
    }
    density = settings.value("agents.sigma_sample_density_type", str, "loglogistic")
    if density == "lognormal":
        teacher["noise"] = {
            "density": "log_normal",
            "mean": settings.value("agents.sigma_sample_density_mean", float),
            "scale": settings.value("agents.sigma_sample_density_std", float)}
    notes = () if kind == asked else (
        f"its sampler {asked!r} is not here; {kind!r} takes its place (the score is the same)",)
    return Published(params, sizes, teacher, _scaled(settings),
                     settings.value("workspaces.use_minmax_scaler", bool, False), False, notes)


def _ddpm(settings: Settings, params: dict, sizes: Sizes) -> Published:
    if sizes.width % 2:
        raise SettingsError(f"embed_dim is {sizes.width}; sines and cosines of a step need an even "
                            "number")
    chain = settings.value("agents.model.beta_schedule", str)
    if chain not in ("cosine", "linear"):
        raise NotImported(f"its betas are {chain!r}; of those of D3IL 'cosine' and 'linear' can be "
                          "taken over")
    steps = settings.value("agents.model.n_timesteps", int)
    predicts = settings.value("agents.model.predict_epsilon", bool, True)
    teacher = {
        **_network(settings, FORMATS["d3il_ddpm"], sizes),
        "activation": "gelu", "noise_embedding": "sinusoidal",
        "schedule": f"ddpm_{chain}", "num_train_steps": steps,
        "prediction": "eps" if predicts else "x0", "sigma_data": 1.0,
        "noise": {"density": "steps"},
        "sampler": {"kind": "ddpm", "num_steps": steps, "spacing": "time"},
    }
    notes = () if not settings.value("agents.model.diffusion_x", bool, False) else (
        "its sampler's extra steps at the last level (diffusion_x) are left out",)
    return Published(params, sizes, teacher, _scaled(settings), False,
                     settings.value("agents.model.clip_denoised", bool, True), notes)
