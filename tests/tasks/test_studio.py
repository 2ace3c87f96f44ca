"""Many images at once: the same by one process and by several; what is said of one that ends."""

import numpy as np
import pytest

from vdd_jax.tasks import cameras, studio
from vdd_jax.tasks.planar import sorting
from vdd_jax.tasks.planar.physics import model_of

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def model():
    try:
        cameras.opengl()
    except cameras.NoOpenGL as error:
        pytest.skip(str(error))
    task = sorting.SORTING_2
    return model_of(task.RULES.world.mjcf(task.RULES.scene))


@pytest.fixture(scope="module")
def states(model):
    """Seven of a rod and two boxes that tell each other apart."""
    found = np.zeros((7, model.nq))
    found[:, :2] = np.linspace((0.3, -0.3), (0.7, 0.3), 7)
    for k in (0, 1):
        found[:, 2 + 7 * k : 5 + 7 * k] = 0.5, 0.2 * k, 0.02
        found[:, 5 + 7 * k] = 1.0
    return found


@pytest.fixture(scope="module")
def expected(model, states):
    images = cameras.draw_all(model, states)
    assert len(np.unique(images.reshape(7, -1), axis=0)) == 7
    return images


@pytest.mark.parametrize("processes", [1, 3])
def test_images_come_in_the_order_of_states(model, states, expected, processes):
    with studio.Studio(model, processes) as drawing:
        np.testing.assert_array_equal(drawing.draw(states), expected)
        np.testing.assert_array_equal(drawing.draw(states[:1]), expected[:1])


@pytest.mark.parametrize("processes", [1, 2])
def test_episodes_are_given_with_their_places(model, states, expected, processes):
    parts, found = [states[:1], states[1:5], states[5:]], {}
    with studio.Studio(model, processes) as drawing:
        drawing.draw_each(parts, found.__setitem__)
    np.testing.assert_array_equal(np.concatenate([found[i] for i in range(3)]), expected)


def test_what_keeps_an_episode_may_fail(model, states):
    def full(place, images):
        raise OSError("no space left")

    with (pytest.raises(OSError, match="no space left"),
          studio.Studio(model, 2) as drawing):
        drawing.draw_each([states[:2], states[2:]], full)


def test_a_process_that_ended_is_told_in_a_sentence(model, states):
    with studio.Studio(model, 2) as drawing:
        drawing.draw(states)
        drawing._all[1]._process.kill()
        with pytest.raises(OSError, match="a process that draws has ended with status -9"):
            drawing.draw(states)


@pytest.mark.parametrize("found, most, expected", [
    (("egl", "llvmpipe (LLVM 15.0.6, 256 bits)"), 100, 4), (("osmesa", ""), 3, 3),
    (("egl", "NVIDIA H200/PCIe/SSE2"), 100, 1), (("egl", "llvmpipe"), 1, 1)])
def test_cores_draw_where_no_gpu_does(monkeypatch, found, most, expected):
    monkeypatch.setattr(cameras, "opengl", lambda: cameras.OpenGL(*found))
    monkeypatch.setattr(studio, "cores", lambda: 4)
    assert studio.processes(most) == expected
