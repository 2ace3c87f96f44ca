"""Small data sets of random numbers in the formats of others, written as their programs do."""

import json
import pickle
from pathlib import Path

import numpy as np

RNG = np.random.default_rng(0)
LENGTHS = (3, 5, 2)


# ---- robomimic, Minari

def robomimic(path, lengths=LENGTHS, change=lambda file: None, **sizes):
    """As robomimic writes its low-dimensional data, episodes not in the order of their names.

    Args:
      change: of the open file, at the end.
      sizes: arrays of `obs`, and how many numbers each has.
    """
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for number, length in [*enumerate(lengths), (10, 4)]:
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo["states"] = RNG.normal(size=(length, 9))
            demo["actions"] = RNG.uniform(-1, 1, (length, 2))
            demo["rewards"] = demo["dones"] = np.zeros(length)
            demo["action_dict/abs"] = RNG.normal(size=(length, 7))
            for group in ("obs", "next_obs"):
                for name, size in (sizes or {"eef": 3, "object": 4}).items():
                    demo[f"{group}/{name}"] = RNG.normal(size=(length, size))
                demo[f"{group}/image"] = np.zeros((length, 6, 6, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_10", b"demo_1"])
        change(file)
    return path


NESTED = {"observation": 3, "goals/desired_goal": 2}  # how many numbers of which observation


def minari(folder, lengths=LENGTHS, seen=NESTED, change=lambda file: None, **metadata):
    """As Minari writes: observations with the one after the last action, nested by their space;
    `seen` is a number where they are a plain array."""
    import h5py

    data = folder / "data"
    data.mkdir(parents=True)
    spaces = {f"observations/{name}": size for name, size in seen.items()} if isinstance(
        seen, dict) else {"observations": seen}
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for number, length in enumerate(lengths):
            episode = file.create_group(f"episode_{number}")
            episode.attrs.update({"id": number, "total_steps": length, "seed": 1})
            for name, size in spaces.items():
                episode.create_dataset(name, data=RNG.normal(size=(length + 1, size)),
                                       chunks=True, maxshape=(None, size))
            episode["actions"] = RNG.normal(size=(length, 2)).astype(np.float32)
            for name in ("rewards", "terminations", "truncations"):
                episode[name] = np.zeros(length)
            episode.create_dataset("infos", (0,), dtype=h5py.string_dtype())
        change(file)
    (data / "metadata.json").write_text(json.dumps({
        "total_episodes": len(lengths), "total_steps": sum(lengths), "data_format": "hdf5",
        "dataset_id": "x/y-v0", **metadata}))
    return folder


# ---- LeRobot

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
    "observation.environment_state": {"dtype": "float64", "shape": [2], "names": None},
    "observation.gripper": {"dtype": "float32", "shape": [1], "names": None},
    "observation.images.top": {"dtype": "video", "shape": [3, 8, 8], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
    **{name: {"dtype": "int64", "shape": [1], "names": None}
       for name in ("episode_index", "frame_index", "index", "task_index")},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}


def lerobot_table(episodes, fixed=True, **changes):
    """Rows of episodes (number, length); lists of fixed size or of any, scalars where size is 1."""
    import pyarrow

    numbers = np.repeat(*zip(*episodes, strict=True)) if episodes else np.zeros(0, int)
    frames = np.concatenate([np.arange(n) for _, n in episodes]) if episodes else np.zeros(0, int)
    columns = {"episode_index": numbers, "frame_index": frames, "index": np.arange(len(frames)),
               "task_index": np.zeros(len(frames), int), "timestamp": frames / np.float32(10)}
    for name, size in (("observation.state", 3), ("observation.environment_state", 2),
                       ("observation.gripper", 1), ("action", 2)):
        values = RNG.normal(size=(len(frames), size)).astype(FEATURES[name]["dtype"])
        columns[name] = values[:, 0] if size == 1 else values
    columns = {k: v for k, v in {**columns, **changes}.items() if v is not None}
    return pyarrow.table({
        name: values if values is None or np.ndim(values) == 1 else
        pyarrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1]) if fixed else
        pyarrow.array(list(values)) for name, values in columns.items()})


def lerobot(folder, tables, version="v3.0", name="file", **info):
    """One file for each table; as many episodes and rows in info.json as there are."""
    from pyarrow import parquet

    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    for number, part in enumerate(tables):
        parquet.write_table(part, folder / f"data/chunk-000/{name}{number:03d}.parquet")
    episodes = {n for part in tables for n in part["episode_index"].to_pylist()}
    (folder / "meta" / "info.json").write_text(json.dumps({
        "codebase_version": version, "fps": 10, "features": FEATURES,
        "total_episodes": len(episodes), "total_frames": sum(map(len, tables)), **info}))
    return folder


# ---- padded .npy

SEQUENCES = ("observations_seq.npy", "actions_seq.npy", "existence_mask.npy")
PUSH = tuple(f"multimodal_push_{name}.npy" for name in ("observations", "actions", "masks"))


def npy(folder, names=SEQUENCES, time_first=True, lengths=(4, 2, 5), size=6, **changes):
    """Observations of `size` numbers. Padding is NaN: whoever reads it is told."""
    steps, episodes = max(lengths), len(lengths)
    mask = (np.arange(steps) < np.array(lengths)[:, None]).astype(float)
    arrays = [RNG.normal(size=(episodes, steps, n)) for n in (size, 2)]
    for array in arrays:
        array[mask == 0] = np.nan
    arrays.append(mask)
    folder.mkdir(exist_ok=True)
    for name, part, array in zip(names, ("observations", "actions", "mask"), arrays, strict=True):
        array = changes.get(part, np.swapaxes(array, 0, 1) if time_first else array)
        if array is not None:
            np.save(folder / name, array)
    return arrays


# ---- D3IL's pickles

def d3il_record(frames=6, **robot):
    t = np.arange(frames, dtype=float)[:, None]
    return {"robot": {"des_c_pos": 0.3 * t + [0, 1, 2], "c_pos": 0.2 * t + [3, 4, 5], **robot},
            "red-box": {"pos": t + [6, 7, 8], "quat": t + [0, 0, 0, 1]}, "note": "x"}


def pickles(folder: Path, *records) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(records):
        (folder / f"env_{number:03d}.pkl").write_bytes(pickle.dumps(content))
    return folder
