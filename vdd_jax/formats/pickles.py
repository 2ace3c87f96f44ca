"""Pickles of arrays, read safely.

A pickle can run any code of whoever wrote it. The unpickler here admits plain Python containers
and numpy arrays and refuses everything else *before* it is looked up.
"""

import io
import pickle
from pathlib import Path

import numpy as np

# The functions that numpy names in its own pickles; asked of numpy itself because the module
# that holds them was renamed with numpy 2.
_ARRAY = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0.0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
ADMITTED = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _ARRAY["_reconstruct"]
    ADMITTED[f"{_core}.multiarray", "scalar"] = _ARRAY["scalar"]
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = _ARRAY["_frombuffer"]


class _ForbiddenGlobal(Exception):
    pass


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise _ForbiddenGlobal(f"{module}.{name}") from None


def read_pickle(file: Path):
    """What a file holds.

    Raises:
      ValueError: when it is damaged or wants to run code.
    """
    content = file.read_bytes()
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except _ForbiddenGlobal as error:
        raise ValueError(
            f"{file}: refused, it wants to load {error}; a demonstration holds only numpy arrays"
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(
            f"{file}: not a complete pickle of numpy arrays ({type(error).__name__}: {error})"
        ) from None
