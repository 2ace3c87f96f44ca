"""Official recordings with images: folders `state` and `images`, damaged ones too."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from vdd_jax.formats import d3il_images
from vdd_jax.frames import Frames
from vdd_jax.tasks import TASKS
from vdd_jax.types import DataError

pytest.importorskip("mujoco", reason="mujoco is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
FRAMES, SIZE = 12, 96  # so many that their names' order is not that of numbers
RNG = np.random.default_rng(0)


def colours(camera: int) -> np.ndarray:
    """One of each frame, `[L, 3]`; red, green and blue differ."""
    return np.stack([10 * np.arange(FRAMES), np.full(FRAMES, 40 + 100 * camera),
                     240 - 10 * np.arange(FRAMES)], axis=-1).astype(np.uint8)


def record(shift: float) -> dict:
    command = shift + np.cumsum(np.full((FRAMES, 3), 0.01), axis=0)
    box = {"pos": RNG.normal(size=(FRAMES, 3)), "quat": np.tile([1.0, 0, 0, 0], (FRAMES, 1))}
    robot = {"des_c_pos": command, "c_pos": command - 0.005}
    return {"robot": robot, **{f"{c}-box{i}": box for c in ("red", "blue") for i in (1, 2)}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two demonstrations, in JPEG and in PNG."""
    (tmp_path / "state").mkdir()
    for name, ending, shift in (("env_0", "jpg", 0.0), ("env_1", "png", 1.0)):
        (tmp_path / "state" / f"{name}.pkl").write_bytes(pickle.dumps(record(shift)))
        for number, camera in enumerate(("bp-cam", "inhand-cam")):
            to = tmp_path / "images" / camera / name
            to.mkdir(parents=True)
            for i, colour in enumerate(colours(number)):
                Image.fromarray(np.tile(colour, (SIZE, SIZE, 1))).save(to / f"{i}.{ending}")
    return tmp_path


def load(path):
    task = type("task", (), {"demonstrations": str(path), "episodes_per_mode": 1})
    return TASKS["sorting_image"].load(task)


def read(path):
    """All images, which `load` leaves where they are."""
    return Frames([seen.images for seen in load(path)[0]])[:]


def test_frames_in_the_order_of_numbers_and_in_rgb(folder):
    seen, about = load(folder)
    assert about["episodes"] == 2 and str(folder) in about["demonstrations"]
    for trajectory, shift, tolerance in zip(seen, (0.0, 1.0), (4, 0), strict=True):
        images = Frames([trajectory.images])[:]
        assert images.shape == (FRAMES - 1, 2, SIZE, SIZE, 3) == trajectory.images.shape
        assert images.dtype == np.uint8
        np.testing.assert_allclose(trajectory.observations,  # what was commanded, in the plane
                                   record(shift)["robot"]["des_c_pos"][:-1, :2], atol=1e-6)
        np.testing.assert_allclose(trajectory.actions, 0.01, atol=1e-6)
        for camera in (0, 1):  # JPEG is not exact
            np.testing.assert_allclose(images[:, camera, 5, 7].astype(int),
                                       colours(camera)[:-1], atol=tolerance)


def test_a_frame_more_or_less(folder):
    """The last frame has no action; the one before it is needed."""
    frames = folder / "images" / "inhand-cam" / "env_1"
    (frames / f"{FRAMES - 1}.png").unlink()
    read(folder)
    (frames / f"{FRAMES - 2}.png").unlink()
    with pytest.raises(ValueError, match=r"inhand-cam.env_1 has no image 10 .* needs 11"):
        read(folder)


@pytest.mark.parametrize("content, words", [
    (b"", "3.jpg cannot be read as an image"),
    (b"no image at all", "3.jpg cannot be read as an image"),
    (None, "3.jpg cannot be read as an image"),
    (64, "3.jpg has 64×64 pixels, expected 96×96"),
])
def test_images_that_are_wrong(folder, content, words):
    file = folder / "images" / "bp-cam" / "env_0" / "3.jpg"
    if isinstance(content, int):
        Image.fromarray(np.zeros((content, content, 3), np.uint8)).save(file)
    else:
        file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    with pytest.raises(ValueError, match=words):
        read(folder)


def test_directories_that_are_wrong(folder, tmp_path):
    with pytest.raises(ValueError, match="no folders 'state' and 'images'"):
        load(folder / "state")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'vdd_jax\[sim\]'"):
        d3il_images.read(folder, "env_0", 3, SIZE)
    with pytest.raises(DataError, match="read by Pillow"):
        read(folder)
