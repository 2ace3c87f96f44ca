"""Opening HDF5 files (the hdf5 extra), and what is in them by name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vdd_jax.formats.arrays import FormatError

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """The file as h5py gives it, read-only.

    Raises:
      FormatError: without h5py; for a file that is damaged, whenever that shows.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise FormatError(f"{path} is HDF5, which needs h5py: pip install 'vdd_jax[hdf5]'"
                          ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FormatError:
        raise
    except (OSError, RuntimeError, KeyError) as error:  # KeyError: a link that leads nowhere
        reason = str(error).strip("'\"").split("\n")[0]
        raise FormatError(f"{path} is not a complete HDF5 file: {reason}") from error


def leaves(node, prefix: str = "") -> dict:
    """The arrays of a group by their names in it, `group/array`; of an array itself ''."""
    if not hasattr(node, "keys"):
        return {prefix: node}
    found = {}
    for name in node:
        found |= leaves(node[name], f"{prefix}/{name}" if prefix else name)
    return found


def numbered(group, prefix: str) -> list[str]:
    """Names `prefix` and a number, in the order of the numbers."""
    names = [n for n in group if n.startswith(prefix) and n[len(prefix):].isdecimal()]
    return sorted(names, key=lambda name: int(name[len(prefix):]))
