"""Settings that hydra wrote beside a published checkpoint (`.hydra/config.yaml`), without hydra.

A value that is one reference, `${a.b}`, is that of the setting named, from the top. Other
interpolations (`${now:…}`, text around a reference) are left as text: no setting that says what a
network is has one.
"""

import re
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class SettingsError(RuntimeError):
    """Settings that are missing or are not what they should be; the text is for the user."""


class Settings:
    """Settings by dotted name."""

    def __init__(self, tree: Any, file: str | Path):
        if not isinstance(tree, dict):
            raise SettingsError(f"{file} holds no settings")
        self._tree, self._file = tree, file

    @classmethod
    def read(cls, file: Path) -> "Settings":
        """Of a YAML file; only plain values are taken from it.

        Raises:
          SettingsError: when it is not there or no YAML.
        """
        try:
            import yaml
        except ModuleNotFoundError as error:
            raise SettingsError("reading .yaml files needs PyYAML; pip install pyyaml") from error
        try:
            return cls(yaml.safe_load(file.read_text(encoding="utf-8")), file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SettingsError(f"{file} is not plain YAML: {reason}") from error
        except OSError as error:
            raise SettingsError(
                f"{file} cannot be read: {error.strerror}; it is written beside a checkpoint when "
                "it is trained, and says what the network is") from error

    def __contains__(self, name: str) -> bool:
        try:
            return self._find(name, ()) is not None
        except KeyError:
            return False

    def value(self, name: str, kind: type, default: Any = None) -> Any:
        """The setting `name`, as a `kind`: bool, int, float or str.

        Raises:
          SettingsError: when it is none, or there is none and no default.
        """
        try:
            found = self._find(name, ())
        except KeyError as error:
            if default is not None:
                return default
            raise SettingsError(f"{self._file} has no setting {error.args[0]}") from error
        try:
            # YAML 1.1 takes 5e-4 for text
            number = float(found) if kind in (int, float) and not isinstance(found, bool) else None
            if kind is float and number is not None:
                return number
            if kind is int and number is not None and number == int(number):
                return int(number)
        except (TypeError, ValueError, OverflowError):
            pass
        if kind in (bool, str) and isinstance(found, kind):
            return found
        raise SettingsError(f"{name} in {self._file} is {found!r}; it should be {_KINDS[kind]}")

    def _find(self, name: str, above: tuple[str, ...]):
        """What stands at `name`; `above` are the names whose references led here."""
        if name in above:
            raise SettingsError(f"{name} in {self._file} refers to itself")
        node, done = self._tree, []
        for part in name.split("."):
            done.append(part)
            if not isinstance(node, dict) or part not in node:
                raise KeyError(name)
            node = node[part]
            if isinstance(node, str) and (reference := _REFERENCE.fullmatch(node.strip())):
                try:
                    node = self._find(reference[1], (*above, ".".join(done)))
                except KeyError:
                    raise KeyError(f"{reference[1]}, to which {'.'.join(done)} refers") from None
        return node
