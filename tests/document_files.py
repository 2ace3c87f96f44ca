"""What pages leave to the reader: the files that their commands name, and a few names of Python.

All are small. Recordings of Avoiding are the official ones where `VDD_SHARED_DATA` has them; others
are random numbers in the layout that is documented.
"""

import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import format_files
import numpy as np

RNG = np.random.default_rng(0)
EPISODES, STEPS = 6, 11  # the same everywhere: runs then share programs
LENGTHS = (STEPS,) * EPISODES


def write(folder: Path) -> None:
    """Puts them where commands that are run in `folder` find them."""
    for name in ("PATH", "data.npz"):
        with (folder / name).open("wb") as file:
            rows = EPISODES * STEPS
            np.savez(file, observations=RNG.normal(size=(rows, 6)),
                     actions=RNG.normal(size=(rows, 2)), episode_ends=np.cumsum(LENGTHS))
    if find_spec("h5py"):
        format_files.robomimic(
            folder / "low_dim_v15.hdf5", LENGTHS, robot0_eef_pos=3, robot0_eef_quat=4,
            robot0_gripper_qpos=2, object=10)
        format_files.minari(
            folder / ".minari" / "datasets" / "D4RL" / "pointmaze" / "umaze-v2", LENGTHS,
            {"observation": 4, "achieved_goal": 2, "desired_goal": 2})
    if find_spec("pyarrow"):
        format_files.lerobot(folder / "DATASET", [
            format_files.lerobot_table(list(enumerate(LENGTHS)))])
    format_files.npy(folder / "relay_kitchen", lengths=LENGTHS, size=60)
    format_files.pickles(folder / "PICKLES", *[_pushed(1)] * EPISODES)
    to = folder / "path" / "to"
    _avoiding(to / "avoiding" / "data")
    format_files.pickles(to / "sorting" / "data", *[_pushed(1)] * EPISODES)
    pose = [np.array([0.45, -0.1, 10.0]), np.array([1.0, 0.0, 0.0, 0.0])]
    (to / "contexts").mkdir()
    (to / "contexts" / "test_contexts.pkl").write_bytes(pickle.dumps([[pose] * 6] * 2))
    if find_spec("PIL"):
        _with_images(to / "sorting" / "4_boxes")


def _pushed(boxes: int) -> dict:
    """A recording of one rod and so many red boxes as blue ones."""
    place = np.cumsum(RNG.normal(scale=0.01, size=(STEPS + 1, 3)), axis=0)
    content = {"robot": {"des_c_pos": place, "c_pos": place - 0.005}}
    for name in ("red-box", *(f"{c}-box{i + 1}" for c in ("red", "blue") for i in range(boxes))):
        content[name] = {"pos": RNG.normal(scale=0.1, size=(STEPS + 1, 3)),
                         "quat": np.tile([1.0, 0.0, 0.0, 0.0], (STEPS + 1, 1))}
    return content


def _avoiding(folder: Path) -> None:
    root = os.environ.get("VDD_SHARED_DATA")
    if root:
        folder.parent.mkdir(parents=True)
        folder.symlink_to(Path(root, "d3il_avoiding").resolve())
    else:
        format_files.pickles(folder, *[format_files.d3il_record(STEPS + 1)] * EPISODES)


def _with_images(folder: Path) -> None:
    """Recordings of four boxes, what two cameras saw in PNG."""
    from PIL import Image

    format_files.pickles(folder / "state", *[_pushed(2)] * EPISODES)
    for camera in ("bp-cam", "inhand-cam"):
        for episode in range(EPISODES):
            frames = folder / "images" / camera / f"env_{episode:03d}"
            frames.mkdir(parents=True)
            for i in range(STEPS):
                image = RNG.integers(0, 256, (96, 96, 3)).astype(np.uint8)
                Image.fromarray(image).save(frames / f"{i}.png")


# names of Python, by page

def _velocity(params, x, observation, t):
    """E[dx/dt|x] of a flow to N(0, I)."""
    return params["scale"] * ((2 * t - 1) / ((1 - t) ** 2 + t**2))[:, None] * x


NAMES = {
    "docs/data.md": {"episodes": [
        SimpleNamespace(states=RNG.normal(size=(n, 6)), actions=RNG.normal(size=(n, 2)))
        for n in LENGTHS]},
    "docs/teachers.md": {
        "network": SimpleNamespace(apply=_velocity), "params": {"scale": np.float32(1.0)},
        "window": np.zeros((1, 6), np.float32)},
}
