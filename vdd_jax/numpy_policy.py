"""A student's policy in NumPy alone. Copy this file and the policy's .npz to the robot:

    import numpy
    from numpy_policy import History, load

    policy = load("policy.npz")
    rng = numpy.random.default_rng()
    action = policy.act(observations, rng)                    # [T, O] or batched [..., T, O]
    action = policy.act(History(observations, valid, goal), rng)
    policy.log_prob(observations, action)                     # nats
    policy.gating_entropy(observations)                       # nats
    policy.mixture(observations)                              # log_weights, means, scale_tril

`python -m vdd_jax.export --format=numpy` writes both files; this one needs no other of vdd_jax. The
networks are those of vdd_jax/models (moe, backbones, transformer, features), arranged for a single
action on one core: the mean of the drawn expert alone is computed, and what follows from a goal
alone is kept until the goal changes. One object is for one thread. On several cores the threads of
NumPy's BLAS gain nothing on products as small as these: set OPENBLAS_NUM_THREADS=1.

Axes: B batch, T window, Z experts, A numbers of an action (H of them at once where the policy gives
chunks: then H · A), O observation, G observations of a goal.
"""

import json
import math
from typing import NamedTuple

import numpy as np

FORMAT = 1
ACTING = ("sampled_mean", "most_likely_mean", "sample")


class History(NamedTuple):
    """What a policy with a window or a goal is given, in the units of the demonstrations."""

    observations: np.ndarray  # `[..., T, O]`, oldest first; before an episode the first repeated
    valid: np.ndarray | None = None  # `[..., T]` bool, which of them were made; None: all
    goal: np.ndarray | None = None  # `[..., G, O]`


class Mixture(NamedTuple):
    """q(a|s) = Σ_z q(z|s) N(a; μ_z, L_z L_zᵀ), in the units of the demonstrations."""

    log_weights: np.ndarray  # `[..., Z]`
    means: np.ndarray  # `[..., Z, A]`
    scale_tril: np.ndarray  # `[..., Z, A, A]`, L


def load(file) -> "NumpyPolicy":
    """The policy that `vdd_jax.export` wrote.

    Raises:
      ValueError: when the file is something else.
    """
    with np.load(file) as stored:
        if "header" not in stored:
            raise ValueError(f"{file} was not written by vdd_jax.export --format=numpy")
        header = json.loads(str(stored["header"]))
        if header["format"] != FORMAT:
            raise ValueError(f"{file} has format {header['format']}; this version of "
                             f"numpy_policy.py reads format {FORMAT}")
        return NumpyPolicy(header, {name: stored[name] for name in stored if name != "header"})


# ---- layers; parameters of experts are stacked on a leading axis Z

class Dense(NamedTuple):
    """x W + b."""

    kernel: np.ndarray  # `[I, O]` or `[Z, I, O]`
    bias: np.ndarray  # `[O]` or `[Z, 1, O]`

    def __call__(self, x):
        y = _product(x, self.kernel)
        y += self.bias
        return y

    def of(self, expert: int) -> "Dense":
        return Dense(self.kernel[expert], self.bias[expert, 0])


class Net(NamedTuple):
    """An MLP, or one of pre-activation residual blocks, as in models/backbones.py."""

    residual: bool
    layers: tuple[Dense, ...]
    activation: str

    def __call__(self, x):
        act, layers = ACTIVATIONS[self.activation], self.layers
        if not self.residual:
            for layer in layers:
                x = act(layer(x))
            return x
        if not layers:
            return x
        x = layers[0](x)
        for first, second in zip(layers[1::2], layers[2::2], strict=True):
            x = x + second(act(first(act(x))))
        return act(x)

    def of(self, expert: int) -> "Net":
        return self._replace(layers=tuple(layer.of(expert) for layer in self.layers))


class Experts(NamedTuple):
    """All heads, with their trunks where experts are independent, or one of them."""

    trunk: Net
    body: Net
    mean: Dense
    scale: Dense

    def hidden(self, x):
        return self.body(self.trunk(x))

    def of(self, expert: int) -> "Experts":
        return Experts(*(part.of(expert) for part in self))


def _mish(x):
    e = np.exp(np.minimum(x, 20.0))  # tanh(log(1 + e^x)) = (e² + 2e) / (e² + 2e + 2)
    e *= e + 2.0
    return x * (e / (e + 2.0))


def _gelu(x):
    return 0.5 * _twice_gelu(x)


def _twice_gelu(x):
    """x (1 + tanh(√(2/π) (x + .044715 x³)))."""
    y = x * x
    y *= _GELU[0]
    y += _GELU[1]
    y *= x
    np.tanh(y, out=y)
    y += _GELU[2]
    y *= x
    return y


_GELU = np.float32([0.044715 * math.sqrt(2 / math.pi), math.sqrt(2 / math.pi), 1.0])
ACTIVATIONS = {
    "gelu": _gelu,
    "mish": _mish,
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "tanh": np.tanh,
}
_SMALL = 1_000_000  # OpenBLAS runs products up to this size without packing them (AVX-512, SVE)


def _product(x, kernel):
    """x W. Of few rows, packing W costs more than the product: it is cut into columns that are
    small enough to be spared that (elsewhere the cuts cost next to nothing)."""
    if x.ndim == kernel.ndim == 2 and len(x) <= 16 and len(x) * kernel.size > _SMALL:
        parts = -(-len(x) * kernel.size // _SMALL)
        width = -(-kernel.shape[1] // (16 * parts)) * 16
        y = np.empty((len(x), kernel.shape[1]), np.float32)
        for start in range(0, kernel.shape[1], width):
            np.matmul(x, kernel[:, start:start + width], out=y[:, start:start + width])
        return y
    return np.matmul(x, kernel)


# ---- the transformer trunk

class Block(NamedTuple):
    """Both normalisations are in the layers that follow them (see `_block`)."""

    attend: Dense  # queries, keys, values
    project: Dense
    up: Dense
    down: Dense


class Transformer:
    """models/transformer.py, `ContextTransformer`: features `[B, D]` of the newest observation.

    The goal comes first in the causal sequence, so its keys and values in all layers follow from
    the goal alone.
    """

    def __init__(self, params: dict, heads: int, tokens):
        self.heads, self.rows_of = heads, tokens  # observations → rows that are embedded
        embed = _centred(params["tokens/embed/kernel"], params["tokens/embed/bias"])
        self.embed = Dense(*embed)
        self.positions, self.goal_positions = (
            _centred(params[name])[0] if name in params else None
            for name in ("tokens/positions", "tokens/goal_positions"))
        depth = sum(f"transformer/block_{i}/up/kernel" in params for i in range(len(params)))
        self.blocks = [_block(_under(params, f"transformer/block_{i}/"), heads)
                       for i in range(depth)]
        scale, shift = (params[f"transformer/norm/{name}"] for name in ("scale", "bias"))
        self.norm = _f32(scale * math.sqrt(len(scale))), shift
        self.goal, self.prefix = None, [None] * depth
        self.masks = {}  # where all observations were made, by the numbers of tokens

    def __call__(self, observations, steps, valid, goal):
        """Scaled observations `[B, T, O]`, their steps, valid `[B, T]` or None, goal `[B, G, O]`
        or None."""
        if goal is not None and not (
                self.goal is not None and np.array_equal(goal, self.goal)):
            rows = self.rows_of(goal, np.zeros_like(goal))
            self.prefix = self._run(rows, self.goal_positions, None, [None] * len(self.blocks))[1]
            self.goal = goal.copy()
        x = self._run(self.rows_of(observations, steps), self.positions, valid, self.prefix)[0]
        x = _unit(x)
        x *= self.norm[0]
        x += self.norm[1]
        return x

    def _run(self, rows, positions, valid, prefix):
        """Tokens `[B, S, F]` behind the prefix's keys and values → the newest `[B, D]`, and keys
        and values `[B, P + S, D]` of all blocks."""
        batch, size = rows.shape[:2]
        x = self.embed(rows.reshape(batch * size, -1))
        x.reshape(batch, size, -1)[...] += positions[:size]
        width, caches = x.shape[1], []
        earlier = 0 if prefix[0] is None else prefix[0][0].shape[1]
        mask = self.masks.get((size, earlier)) if valid is None else None
        if mask is None:
            mask = _mask(size, earlier, valid)
            if valid is None:
                self.masks[size, earlier] = mask
        for block, cache in zip(self.blocks, prefix, strict=True):
            last = block is self.blocks[-1]
            h = _unit(x)
            kernel, bias = block.attend
            if last:  # of which the newest token alone is asked for
                newest = slice(size - 1, None, size)
                q = _product(h[newest], kernel[:, :width])
                q += bias[:width]
                kernel, bias = kernel[:, width:], bias[width:]
            qkv = _product(h, kernel)
            qkv += bias
            qkv = qkv.reshape(batch, size, -1)
            k, v = qkv[:, :, -2 * width:-width], qkv[:, :, -width:]
            q = q.reshape(batch, 1, width) if last else qkv[:, :, :width]
            if cache is not None:
                k, v = (np.concatenate(pair, axis=1) for pair in zip(cache, (k, v), strict=True))
            caches.append((k, v))
            if last:
                x, mask = x[newest], mask[..., -1:, :]
            x = x + block.project(self._attend(q, k, v, mask))
            x += block.down(_twice_gelu(block.up(_unit(x))))
        return x, caches

    def _attend(self, q, k, v, mask):
        """Queries `[B, N, D]` over keys and values `[B, S, D]` → `[B · N, D]`."""
        batch, num, width = q.shape
        shape = (batch, -1, self.heads, width // self.heads)
        q, k, v = (part.reshape(shape).transpose(0, 2, 1, 3) for part in (q, k, v))
        weights = np.matmul(q, k.swapaxes(-1, -2))
        weights += mask
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= np.add.reduce(weights, axis=-1, keepdims=True)
        return np.matmul(weights, v).transpose(0, 2, 1, 3).reshape(batch * num, width)


def _mask(size: int, earlier: int, valid):
    """Added to attention `[B, heads, S, P + S]`: tokens see what is before them and themselves;
    nothing but itself sees a token that is not valid."""
    later = np.triu(np.ones((size, size), bool), 1)
    if valid is not None:
        later = later | ~(valid[:, None, :] | np.eye(size, dtype=bool))
    mask = np.where(later, np.float32(-1e9), np.float32(0.0))
    mask = np.concatenate([np.zeros((*mask.shape[:-1], earlier), np.float32), mask], axis=-1)
    return mask if valid is None else mask[:, None]


def _unit(x):
    """Rows `[B, D]` of mean 0, each at length 1 but for what a normalisation adds to a variance;
    its scale is √D times this."""
    square = np.add.reduce(x * x, axis=1, keepdims=True)
    square += 1e-6 * x.shape[1]
    np.sqrt(square, out=square)
    return x / square


def _block(p: dict, heads: int) -> Block:
    """Exact rearrangements, once: scale and bias of a normalisation are put into the layer that
    reads it, and what is written to the residual stream is centred there, so that the stream
    always has mean 0, as its readers would make it; with 1/√d in the queries and GELU's ½ in the
    layer after it."""
    width = p["project/kernel"].shape[0]
    attend = _after_norm(p, "norm_1", "query_key_value")
    share = np.ones(3 * width)
    share[:width] = 1 / math.sqrt(width // heads)
    down, bias = _centred(p["down/kernel"], p["down/bias"])
    return Block(Dense(*(_f32(v * share) for v in attend)),
                 Dense(*_centred(p["project/kernel"], p["project/bias"])),
                 Dense(*map(_f32, _after_norm(p, "norm_2", "up"))),
                 Dense(_f32(0.5 * down), bias))


def _after_norm(p: dict, norm: str, layer: str):
    kernel = p[f"{layer}/kernel"].astype(np.float64)
    bias = p[f"{norm}/bias"] @ kernel + p[f"{layer}/bias"]
    return math.sqrt(len(kernel)) * p[f"{norm}/scale"][:, None] * kernel, bias


def _centred(*values):
    return [_f32(v - v.mean(-1, keepdims=True, dtype=np.float64)) for v in values]


def _f32(values):
    return np.ascontiguousarray(values, np.float32)


def _under(params: dict, prefix: str) -> dict:
    return {name[len(prefix):]: v for name, v in params.items() if name.startswith(prefix)}


# ---- the policy

class NumpyPolicy:
    """q(a|s). An observation is `[O]` or batched `[..., O]`; of a task with a window `[..., T, O]`,
    or a `History`. An action is `[..., A]`, or `[..., H, A]` where the policy gives H > 1 at once.
    Every method raises a ValueError for a wrong size, NaN or infinity."""

    def __init__(self, header: dict, arrays: dict):
        """`header` and `arrays` as in the file, see `load`."""
        for name in ("observation_dim", "action_dim", "window", "chunk", "goal_length",
                     "min_weight"):
            setattr(self, name, header[name])
        self.acting = header.get("acting", ACTING[0])  # older files do not say
        s = self.student = header["student"]
        self.scaler = _under(arrays, "scaler/")
        experts = _under(arrays, "experts/")
        self.transformer = None
        if s["trunk"] == "transformer":
            self.transformer = Transformer(_under(experts, "trunk/"), s["heads"], self._rows)
        self.trunk = _net(experts, "trunk/", s["trunk"], s["activation"])
        mean, scale = (_layer(experts, f"experts/{name}") for name in ("mean", "scale"))
        std, shift = self.scaler["action_std"], self.scaler["action_mean"]
        self.experts = Experts(
            _net(experts, "experts/trunk/", s["trunk"], s["activation"]),
            _net(experts, "experts/body/", s["head"], s["activation"]),
            Dense(_f32(mean.kernel * std), _f32(mean.bias * std + shift)), scale)
        self.alone = [self.experts.of(z) for z in range(s["num_experts"])]
        gating = _under(arrays, "gating/")
        self.gating = _net(gating, "body/", "mlp", s["activation"])
        self.logits = _layer(gating, "logits") if gating else None

    # -- what can be asked of it

    def mixture(self, observation) -> Mixture:
        """q(·|s), over actions of H · A numbers."""
        features, log_weights, batch = self._see(observation)
        hidden = self.experts.hidden(features)
        means = self.experts.mean(hidden).swapaxes(0, 1)
        factors = self._factor(self.experts.scale(hidden)).swapaxes(0, 1)
        return Mixture(*(np.ascontiguousarray(v.reshape(*batch, *v.shape[1:]))
                         for v in (log_weights, means, factors)))

    def act(self, observation, rng: np.random.Generator, how: str | None = None):
        """An action: the mean of an expert drawn from the gating ('sampled_mean'), that of the
        likeliest ('most_likely_mean'), or a 'sample'; None: as the policy's `acting` says. Experts
        below the policy's `min_weight` are not drawn. It is within the range of the demonstrated
        actions, where the file has one."""
        how = how or self.acting
        if how not in ACTING:
            raise ValueError(f"how is one of {', '.join(ACTING)}, not {how!r}")
        features, log_weights, batch = self._see(observation)
        if how == "most_likely_mean":
            expert = log_weights.argmax(axis=-1)
        else:
            expert = _draw(log_weights, rng, self.min_weight)
        if len(expert) == 1:
            action = self._action(features, expert[0], rng, how)
        else:
            action = np.empty((len(expert), self.chunk * self.action_dim), np.float32)
            for z in np.unique(expert):
                mine = expert == z
                action[mine] = self._action(features[mine], z, rng, how)
        if "action_low" in self.scaler:
            action = np.clip(action, self.scaler["action_low"], self.scaler["action_high"])
        return action.reshape(*batch, *self._action_shape())

    def log_prob(self, observation, action) -> np.ndarray:
        """Exact log q(a|s), `[...]`, in nats."""
        action = _checked(action, self._action_shape(), "action")
        q = self.mixture(observation)
        action = action.reshape(*action.shape[:action.ndim - len(self._action_shape())], 1, -1)
        white = np.linalg.solve(q.scale_tril.astype(np.float64), (action - q.means)[..., None])
        spread = np.log(np.diagonal(q.scale_tril, axis1=-2, axis2=-1)).sum(-1, dtype=np.float64)
        size = q.means.shape[-1]
        joint = (q.log_weights - 0.5 * (white[..., 0] ** 2).sum(-1) - spread
                 - 0.5 * size * math.log(2 * math.pi))
        return _log_sum_exp(joint)[..., 0]

    def gating_entropy(self, observation) -> np.ndarray:
        """−Σ_z q(z|s) log q(z|s), `[...]`, in nats."""
        _, log_weights, batch = self._see(observation)
        return -(np.exp(log_weights) * log_weights).sum(-1).reshape(batch)

    # -- how it is computed

    def _action_shape(self) -> tuple[int, ...]:
        return (self.chunk, self.action_dim) if self.chunk > 1 else (self.action_dim,)

    def _action(self, features, z, rng, how):
        """Of expert z for each row of features, `[B, H · A]`."""
        hidden = self.alone[z].hidden(features)
        mean = self.alone[z].mean(hidden)
        if how != "sample":
            return mean
        noise = rng.standard_normal(mean.shape, np.float32)
        factor = self._factor(self.alone[z].scale(hidden))
        return mean + np.einsum("bij,bj->bi", factor, noise)

    def _see(self, observation):
        """Rows for the experts `[B, D]`, log q(z|s) `[B, Z]`, and the batch axes that B stands
        for."""
        if self.window:
            features, flat, batch = self._see_window(observation)
        else:
            seen = _checked(observation, (self.observation_dim,), "observation")
            batch = seen.shape[:-1]
            features = self._scaled(seen.reshape(-1, seen.shape[-1]) if seen.size else
                                    seen.reshape(math.prod(batch), 0))
            if not self.observation_dim:
                features = np.ones((len(features), 1), np.float32)
            features, flat = self.trunk(features), None
        if self.logits is None:
            num = self.student["num_experts"]
            log_weights = np.full((len(features), num), -math.log(num), np.float32)
            return features, log_weights, batch
        shown = features if flat is None else np.concatenate([features, flat], axis=1)
        logits = self.logits(self.gating(shown))
        return features, logits - _log_sum_exp(logits), batch

    def _see_window(self, observation):
        given = observation if isinstance(observation, History) else History(observation)
        seen = _checked(given.observations, (self.window, self.observation_dim), "observation")
        batch, valid, goal = seen.shape[:-2], given.valid, given.goal
        seen = self._shown(seen.reshape(-1, *seen.shape[-2:]))
        if valid is not None:
            valid = _checked(valid, (self.window,), "observation's valid").astype(bool)
            valid = np.broadcast_to(valid, (*batch, self.window)).reshape(-1, self.window)
            if valid.all():
                valid = None
        if self.goal_length:
            if goal is None:
                raise ValueError("this policy pursues a goal; give History(observations, goal=…) "
                                 f"of shape [..., {self.goal_length}, {self.observation_dim}]")
            shape = (self.goal_length, self.observation_dim)
            goal = np.broadcast_to(_checked(goal, shape, "goal"), (*batch, *shape))
            goal = self._scaled(self._shown(goal.reshape(-1, *shape)))
        elif goal is not None:
            raise ValueError("this policy has no goal; leave it out")
        steps = None
        if self.student["history"] == "differences":
            steps = np.zeros_like(seen)
            np.subtract(seen[:, 1:], seen[:, :-1], out=steps[:, 1:])
            steps /= self.scaler["step_std"]
            if valid is not None:
                steps[:, 1:] *= (valid[:, 1:] & valid[:, :-1])[..., None]
        seen = self._scaled(seen)
        if self.transformer is not None:
            return self.transformer(seen, steps, valid, goal), None, batch
        flat = self._flat(seen, steps, valid, goal)
        return self.trunk(flat), flat, batch

    def _scaled(self, observations):
        return (observations - self.scaler["observation_mean"]) / self.scaler["observation_std"]

    def _shown(self, observations):
        """`Scaler.shown`."""
        shown = observations
        if "tangents" in self.scaler:
            angles = np.arctan(observations) * np.float32(2 / np.pi)
            shown = np.where(self.scaler["tangents"] > 0, angles, observations)
        if "relative" in self.scaler:
            shown = np.concatenate([shown, observations @ self.scaler["relative"]], axis=-1)
        return shown

    def _flat(self, seen, steps, valid, goal):
        """models/features.py, `flat`: `[B, F]`."""
        newest, past = seen[:, -1], seen[:, :-1] if steps is None else steps[:, 1:]
        if steps is None and valid is not None:
            past = np.where(valid[:, :-1, None], past, np.float32(0.0))
        parts = [newest, self._fourier(newest), past.reshape(len(seen), -1)]
        if goal is not None:
            parts.append(goal.reshape(len(seen), -1))
        parts.append(np.ones((len(seen), self.window - 1), np.float32) if valid is None
                     else valid[:, :-1].astype(np.float32))
        return np.concatenate(parts, axis=1)

    def _rows(self, seen, steps):
        """models/features.py, `per_step`: `[B, T, F]`."""
        parts = [seen, self._fourier(seen)]
        if steps is not None and self.student["history"] == "differences":
            parts.append(steps)
        return np.concatenate(parts, axis=-1)

    def _fourier(self, x):
        num = self.student["fourier"]
        angle = (x[..., None] * _f32(math.pi / 2 * 2.0 ** np.arange(num))).reshape(
            *x.shape[:-1], num * x.shape[-1])
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)

    def _factor(self, raw):
        """models/moe.py, `build_scale_tril`, and the units of the action: `[..., A, A]`."""
        raw, s, a = raw.astype(np.float64), self.student, self.chunk * self.action_dim
        scale = s["init_std"] * np.exp(15 * np.tanh(raw[..., :a] / 15))
        tril = scale[..., None] * np.eye(a)
        if s["covariance"] == "full":
            rows, columns = np.tril_indices(a, -1)
            tril[..., rows, columns] = scale[..., rows] * (30 * np.tanh(raw[..., a:] / 30))
        if s["std_floor"]:  # the factor of L Lᵀ + std_floor² I
            floor = np.broadcast_to(s["std_floor"] * np.eye(a), tril.shape)
            r = np.linalg.qr(np.concatenate([tril.swapaxes(-1, -2), floor], axis=-2), mode="r")
            sign = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
            tril = (r * sign[..., None]).swapaxes(-1, -2)
        return (tril * self.scaler["action_std"][:, None]).astype(np.float32)


def _layer(params: dict, name: str) -> Dense:
    kernel, bias = _f32(params[f"{name}/kernel"]), _f32(params[f"{name}/bias"])
    return Dense(kernel, bias[:, None] if kernel.ndim == 3 else bias)


def _net(params: dict, prefix: str, kind: str, activation: str) -> Net:
    """The layers under a prefix; the identity where there are none."""
    num = sum(f"{prefix}Dense_{i}/kernel" in params for i in range(len(params)))
    layers = tuple(_layer(params, f"{prefix}Dense_{i}") for i in range(num))
    return Net(kind == "residual_mlp", layers, activation)


def _draw(log_weights, rng, min_weight: float):
    """Indices `[B]` of experts, of those that weigh at least `min_weight`."""
    weights = np.exp(log_weights, dtype=np.float64)
    if min_weight:
        weights[log_weights < np.float32(math.log(min_weight))] = 0.0
    below = np.cumsum(weights, axis=-1)
    below /= below[:, -1:]
    return (below <= rng.random((len(weights), 1))).sum(-1)


def _log_sum_exp(x):
    """Over the last axis, which stays as 1."""
    top = x.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def _checked(values, sizes: tuple[int, ...], what: str):
    values = np.asarray(values, np.float32)
    if values.shape[max(values.ndim - len(sizes), 0):] != sizes:
        wanted = ", ".join(map(str, sizes))
        raise ValueError(f"the {what} has shape {values.shape}; this policy takes {what}s of shape "
                         f"[..., {wanted}]")
    if not np.isfinite(values).all():
        raise ValueError(f"the {what} holds NaN or infinity")
    return values
