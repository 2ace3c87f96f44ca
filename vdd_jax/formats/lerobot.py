"""LeRobot's data sets, versions 2 and 3 (the lerobot extra: pyarrow), their numbers without images:

    DATASET/meta/info.json                         codebase_version, features: dtype, shape;
                                                   total_episodes, total_frames
    DATASET/data/chunk-000/file-000.parquet        version 3: one row a step of many episodes
    DATASET/data/chunk-000/episode_000000.parquet  version 2: of one

A row has `episode_index`, `frame_index` and a column for each feature that is no video. An
observation is `observation.state` unless others are asked for, an action `action`.
"""

import json
from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import FormatError, Keys, missing, name_of, only, stacked, trajectory
from vdd_jax.types import Trajectory

INFO = Path("meta", "info.json")
PLACE = ("episode_index", "frame_index")


def is_here(path: Path) -> bool:
    """Whether a directory is a data set of LeRobot's."""
    return (path / INFO).is_file()


def read(path: Path, keys: Keys) -> list[Trajectory]:
    """The episodes in the order of their numbers.

    Raises:
      FormatError: without pyarrow, or when it is not as described above.
    """
    info = _info(path / INFO)
    features = {name: tuple(about["shape"]) for name, about in info["features"].items()
                if str(about["dtype"]).startswith(("float", "int", "uint", "bool"))
                and len(about["shape"]) == 1}
    offered = [name for name in features if name not in PLACE]
    seen = only(offered, keys.observations, "observation.state", "observation", path)
    done = only(offered, keys.actions, "action", "action", path)
    missing(seen, offered, "observation", path)
    missing(done, offered, "action", path)
    files = sorted((path / "data").glob("chunk-*/*.parquet"))
    if not files:
        raise FormatError(f"{path} has no files data/chunk-…/….parquet")
    sizes = {name: features[name][0] for name in map(name_of, (*seen, *done))}
    columns = _columns(files, sizes)
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {name: values[order] for name, values in columns.items()}
    _whole(columns, info, path)
    ends = np.flatnonzero(np.diff(columns["episode_index"], append=-1)) + 1
    episodes = []
    for a, b in zip([0, *ends[:-1]], ends, strict=True):
        where = f"episode {columns['episode_index'][a]} of {path}"
        if not np.array_equal(columns["frame_index"][a:b], np.arange(b - a)):
            raise FormatError(f"{where} has {b - a} rows, whose frame_index is not 0 to "
                              f"{b - a - 1}")
        part = {name: values[a:b] for name, values in columns.items()}
        episodes.append(trajectory(stacked(part, seen, "observation", where),
                                   stacked(part, done, "action", where), where))
    return episodes


def _info(file: Path) -> dict:
    try:
        info = json.loads(file.read_text())
        version, features = str(info["codebase_version"]), info["features"]
        for about in features.values():
            about["shape"], about["dtype"]  # noqa: B018
    except FileNotFoundError:
        raise FormatError(f"there is no {file}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{file} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{file} lacks {error}; it should say codebase_version and of each of "
                          "the features dtype and shape") from error
    if not version.startswith(("v2.", "v3.")):
        raise FormatError(f"{file} is of version {version}; v2 and v3 are read")
    if (storage := info.get("storage_format", "parquet")) != "parquet":
        raise FormatError(f"{file} says that the data are stored as {storage!r}; only Parquet is "
                          "read")
    return info


def _columns(files: list[Path], sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Features `[N, size]` and `PLACE` `[N]` of all files, in the order of the files."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise FormatError(f"{files[0]} is Parquet, which needs pyarrow: pip install "
                          "'vdd_jax[lerobot]'") from error
    wanted = {**dict.fromkeys(PLACE, 0), **sizes}
    parts = {name: [] for name in wanted}
    for file in files:
        try:
            names = parquet.read_schema(file).names
            if lacks := [name for name in wanted if name not in names]:
                raise FormatError(f"{file} has no column {', '.join(lacks)}; it has "
                                  f"{', '.join(names)}")
            table = parquet.read_table(file, columns=list(wanted))
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).split("\n")[0]
            raise FormatError(f"{file} is not a complete Parquet file: {reason}") from error
        for name, size in wanted.items():
            parts[name].append(_values(table.column(name).combine_chunks(), name, size, file))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _values(array, name: str, size: int, file: Path) -> np.ndarray:
    """A column as `[N, size]`, or `[N]` for size 0."""
    rows = len(array)
    if array.null_count:
        raise FormatError(f"{name} of {file} has {array.null_count} rows without a value")
    if hasattr(array, "flatten") and hasattr(array.type, "value_type"):  # lists
        array = array.flatten()
    if len(array) != rows * max(size, 1):
        raise FormatError(f"{name} of {file} has {len(array)} numbers in {rows} rows; its feature "
                          f"says {max(size, 1)} in each")
    values = array.to_numpy(zero_copy_only=False)
    return values.reshape(rows, size) if size else values


def _whole(columns: dict, info: dict, path: Path) -> None:
    found = {"total_frames": len(columns["frame_index"]),
             "total_episodes": len(np.unique(columns["episode_index"]))}
    for name, number in found.items():
        if not number or info.get(name, number) != number:
            raise FormatError(f"{path} has {name} = {info.get(name)} by its info.json, but its "
                              f"Parquet files hold {number}")
