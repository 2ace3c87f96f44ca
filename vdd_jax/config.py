"""The configuration: `default()` builds the ConfigDict that files under `configs/` override,
`validate()` reports everything that is wrong with one, at once. Its keys: `config_keys.py`."""

import difflib
import json
import math
import platform
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

from vdd_jax.config_keys import KEYS
from vdd_jax.config_rules import inconsistencies


class ConfigError(ValueError):
    """A configuration that cannot be run; its text is for the user, one problem a line."""


def default() -> ConfigDict:
    """A new ConfigDict of every key's default."""
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        node[leaf] = key.default
    return config


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Values by dotted key."""
    flat = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            flat |= {f"{name}.{rest}": v for rest, v in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def validate(config: ConfigDict) -> None:
    """Checks every key and how they fit together.

    Raises:
      ConfigError: naming everything that is wrong.
    """
    flat = flatten(config)
    errors = [f"unknown key config.{k}{did_you_mean(k)}" for k in flat if k not in KEYS]
    errors += [f"missing key config.{k}" for k in KEYS if k not in flat]
    good = {}
    for name, value in flat.items():
        if name not in KEYS:
            continue
        key = KEYS[name]
        if not _same_type(value, key.default):
            errors.append(
                f"config.{name} is {value!r}; it should be a {type(key.default).__name__}"
            )
            continue
        try:
            fine = value in key.allowed if isinstance(key.allowed, tuple) else key.allowed(value)
        except TypeError:  # e.g. a tuple of words where numbers are summed
            fine = False
        if not fine:
            errors.append(f"config.{name} is {value!r}; it should be {key.expected}")
        elif isinstance(value, float) and not math.isfinite(value):
            errors.append(f"config.{name} is {value!r}; it should be a finite number")
        else:
            good[name] = value
    if len(good) == len(KEYS) and not errors:
        errors += inconsistencies(good)
    if errors:
        raise ConfigError("\n".join(errors))


def _same_type(value, default) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, (tuple, list))
    return isinstance(value, type(default)) and not isinstance(value, bool)


def did_you_mean(name: str) -> str:
    """' (did you mean …?)' with the nearest existing key or keys, or nothing."""
    near = difflib.get_close_matches(name, list(KEYS), n=1, cutoff=0.0)
    leaf = [k for k in KEYS if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    best = leaf[:3] or near
    return f" (did you mean {' or '.join(f'config.{b}' for b in best)}?)" if best else ""


def to_json(config: ConfigDict) -> str:
    """The resolved configuration as indented JSON (tuples become lists)."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(stored: str | dict) -> ConfigDict:
    """The inverse of `to_json`, from the text or what it parses to; keys added since take their
    defaults.

    Raises:
      ConfigError: for keys that no longer exist, or values that do not fit.
    """
    if isinstance(stored, str):
        try:
            stored = json.loads(stored)
        except json.JSONDecodeError as error:
            raise ConfigError(f"this is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ConfigError(f"a configuration is a JSON object, not {str(stored)[:40]!r}")
    stored = flatten(ConfigDict(stored))
    unknown = [k for k in stored if k not in KEYS]
    if unknown:
        raise ConfigError("\n".join(f"unknown key config.{k}{did_you_mean(k)}" for k in unknown))
    config = default()
    for name, value in stored.items():
        if isinstance(KEYS[name].default, tuple) and isinstance(value, list):
            value = tuple(value)
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        with node.ignore_type():  # `validate` complains better, and of everything at once
            node[leaf] = value
    validate(config)
    return config


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
    """'config.key: a → b' for every key that changes what is trained and differs. How a run is
    evaluated may change (a report holds its configuration), and so may what only a stage reads
    that neither has."""
    a, b = flatten(from_json(to_json(a))), flatten(from_json(to_json(b)))
    stages = {*a["stages"], *b["stages"]}
    free = ("run.", "evaluate.", *(f"{s}." for s in ("from_scratch", "consistency")
                                   if s not in stages))
    return [f"config.{k}: {a[k]!r} → {b[k]!r}" for k in a
            if a[k] != b[k] and not k.startswith(free) and k != "stages"]


def versions() -> dict[str, str]:
    """Versions of this library and of what computes."""
    packages = ("vdd_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
