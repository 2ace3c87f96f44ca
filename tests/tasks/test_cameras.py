"""Drawing: what the cameras see, the choice of OpenGL, and images of a recording."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from vdd_jax import stages
from vdd_jax.tasks import cameras, record, recording_file
from vdd_jax.tasks.planar import recording, sorting
from vdd_jax.tasks.planar.physics import World, model_of
from vdd_jax.tasks.stacking import rules

pytest.importorskip("mujoco", reason="mujoco is not installed")


def draws() -> bool:
    try:
        return bool(cameras.opengl().backend)
    except cameras.NoOpenGL:
        return False


needs_opengl = pytest.mark.skipif(not draws(), reason="neither EGL nor OSMesa works here")


def stacking_state(*boxes):
    starts = rules.begin(np.array([boxes], float), 1)
    with rules.World(rules.SCENE, starts, 1) as world:
        return world.model, world.places[0]


BOXES = ((0.4, -0.2, 0.0), (0.4, -0.05, 0.0), (0.57, -0.1, 0.0))


def reddish(image):
    rgb = image.astype(int)
    return (rgb[..., 0] > 60) & (rgb[..., 0] > 3 * rgb[..., 1]) & (rgb[..., 0] > 3 * rgb[..., 2])


@needs_opengl
def test_the_cage_camera_sees_where_a_box_is():
    """y grows to the right of the image, x (away from the robot) down, towards the camera."""
    places = []
    for x, y in ((0.4, -0.2), (0.4, 0.1), (0.6, 0.1)):
        model, state = stacking_state((x, y, 0.0), (0.3, -0.4, 0.0), (0.3, 0.4, 0.0))
        (image,) = cameras.draw_all(model, state[None], cameras=("cage",))[0]
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        found = np.argwhere(reddish(image))
        assert 4 < len(found) < 200
        places.append(found.mean(0))
    left, right, near = places
    assert right[1] > left[1] + 5 and abs(right[0] - left[0]) < 3
    assert near[0] > right[0] + 5


@needs_opengl
def test_the_camera_at_the_hand_moves_with_it():
    model, state = stacking_state(*BOXES)
    with cameras.Renderer(model) as renderer:
        before = renderer.draw(state)
        again = renderer.draw(state)
        state[0] += 0.05
        after = renderer.draw(state)
    assert before.shape == (2, 96, 96, 3)
    np.testing.assert_array_equal(before, again)
    changed = (np.abs(before.astype(int) - after) > 20).any(-1).mean((1, 2))
    assert changed[1] > 3 * changed[0] > 0  # all that it sees has moved; of the cage's the hand


@needs_opengl
def test_sorting_shows_rod_and_regions():
    task = sorting.SORTING_2
    starts = task.starts(np.random.default_rng(0), 1)
    with World(task.SCENE, starts, 1) as world:
        (image, _) = cameras.draw_all(world.model, world.places)[0]
    rgb = image.astype(int)
    pink = (rgb[..., 0] - rgb[..., 2] > 40) & ~reddish(image)
    violet = rgb[..., 2] - rgb[..., 0] > 40
    assert pink.sum() > 50 and violet.sum() > 50


@needs_opengl
def test_images_of_a_recording_show_its_observations(tmp_path):
    """The red box is where the observation says, in the first image and in the last."""
    out = tmp_path / "a.npz"
    record.run("sorting_2", 2, out, 0, images=True)
    recorded = recording_file.read(out)
    files = sorted((tmp_path / "a.images").iterdir())
    assert [f.name for f in files] == ["000000.npz", "000001.npz"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.images", "a.npz"]
    demonstrator = sorting.SORTING_2.DEMONSTRATOR
    model = model_of(demonstrator.rules.world.mjcf(demonstrator.rules.scene))
    for file, trajectory in zip(files, recorded.trajectories, strict=True):
        images = np.load(file)["images"]
        assert images.shape == (len(trajectory.actions), 2, 96, 96, 3)
        for t in (0, len(images) - 1):
            state = np.zeros(model.nq)
            state[:2] = trajectory.observations[t, 2:4]
            for k in (0, 1):
                x, y, tan = trajectory.observations[t, 4 + 3 * k : 7 + 3 * k]
                yaw = np.arctan(tan)
                state[2 + 7 * k : 9 + 7 * k] = x, y, 0.011, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
            again = cameras.draw_all(model, state[None], cameras=("cage",))[0, 0]
            differ = (np.abs(again.astype(int) - images[t, 0]) > 40).any(-1).mean()
            assert differ < 0.01


def test_states_belong_to_the_observations():
    """Of tasks that show the state before the physics, and of those that show it after."""
    for task in (sorting.SORTING_2,):
        ran = recording.attempt(task.DEMONSTRATOR, [0, 1], 0, keep_states=True)
        np.testing.assert_allclose(ran.states[:, :20, :2], ran.observations[:, :20, 2:4], atol=1e-6)
        without = recording.attempt(task.DEMONSTRATOR, [0, 1], 0)
        assert without.states is None
        np.testing.assert_array_equal(without.observations, ran.observations)


@pytest.fixture
def afresh():
    cameras.opengl.cache_clear()
    yield
    cameras.opengl.cache_clear()


@pytest.mark.parametrize("works, wanted, found", [
    ({"egl", "osmesa"}, "", "egl"), ({"osmesa"}, "", "osmesa"), ({"egl", "osmesa"}, "osmesa",
                                                                "osmesa"),
    ({"osmesa"}, "egl", None), (set(), "", None), ({"osmesa"}, "glfw", "osmesa")])
def test_what_works_is_chosen(monkeypatch, afresh, works, wanted, found):
    def tried(command, env, **options):
        return SimpleNamespace(returncode=int(env["MUJOCO_GL"] not in works), stdout="a GPU\n")

    monkeypatch.setattr(subprocess, "run", tried)
    monkeypatch.setenv("MUJOCO_GL", wanted)
    if found:
        assert cameras.opengl().backend == found
    else:
        with pytest.raises(cameras.NoOpenGL, match="neither EGL nor OSMesa works here; install"):
            cameras.opengl()


def test_a_run_on_a_machine_that_cannot_draw_ends_with_a_sentence():
    """`main` tells errors of these kinds, without a traceback."""
    assert issubclass(cameras.NoOpenGL, stages.USER_ERRORS)
