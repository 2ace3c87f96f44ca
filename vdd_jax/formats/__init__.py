"""Demonstrations in the formats of others, and in our own, as episodes (docs/data.md).

One file a format, each `read(path, keys) → episodes`; nothing here knows tasks or networks.
"""

from pathlib import Path

from vdd_jax.formats import d3il, hdf5_files, lerobot, minari, npy, own, robomimic
from vdd_jax.formats.arrays import FormatError, Keys
from vdd_jax.types import Trajectory

__all__ = ["FORMATS", "FormatError", "Keys", "read", "recognise"]

FORMATS = {
    "npz": own.read_npz,
    "hdf5": own.read_hdf5,
    "npy": npy.read,
    "d3il": d3il.read,
    "robomimic": robomimic.read,
    "minari": minari.read,
    "lerobot": lerobot.read,
}
_DIRECTORIES = {"lerobot": lerobot, "minari": minari, "npy": npy, "d3il": d3il}
_FILES = ("npz", "hdf5", "robomimic")


def read(path: str | Path, form: str = "auto", keys: Keys = Keys()) -> list[Trajectory]:  # noqa: B008
    """The episodes of a file or directory.

    Args:
      form: one of FORMATS, or 'auto': by what is in it.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      FormatError: it is not what its format says, of no format that is known, or needs a package
        that is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    form = recognise(path) if form == "auto" else form
    if form in _FILES and path.is_dir() or form not in (*_FILES, "minari") and path.is_file():
        raise FormatError(f"{path} is a {'directory' if path.is_dir() else 'file'}; data in the "
                          f"format {form!r} are a {'file' if path.is_dir() else 'directory'}")
    if keys.subset and form != "robomimic":
        raise FormatError(f"config.task.subset is {keys.subset!r}, but only data of robomimic have "
                          f"named parts; {path} is of the format {form!r}")
    return FORMATS[form](path, keys)


def recognise(path: Path) -> str:
    """The format of a file or directory, by what is in it.

    Raises:
      FormatError: when it is none.
    """
    if path.is_dir():
        for name, module in _DIRECTORIES.items():
            if module.is_here(path):
                return name
        raise FormatError(f"the directory {path} (config.task.demonstrations) is of no format that "
                          f"is known: neither {lerobot.INFO}, data/{minari.FILE}, "
                          f"{npy.KINDS[0][0][0]} nor *.pkl is in it")
    with path.open("rb") as file:
        start = file.read(8)
    if start != hdf5_files.MAGIC:
        return "npz"  # or nothing: its reader says so
    with hdf5_files.opened(path) as file:
        if robomimic.is_here(file):
            return "robomimic"
        return "minari" if minari.is_inside(file) else "hdf5"
