"""Demonstrations of one's own from a file: the layout, sizes, refusals, windows."""

import jax
import numpy as np
import pytest
from tiny_config import tiny

from vdd_jax import config as config_lib
from vdd_jax import problem
from vdd_jax.config import ConfigError
from vdd_jax.tasks import TASKS, recorded

RNG = np.random.default_rng(0)
ARRAYS = {"observations": RNG.normal(size=(12, 3)), "actions": RNG.normal(size=(12, 2)),
          "episode_ends": np.array([4, 5, 12])}


def task_of(path, **values):
    task = config_lib.default().task
    task.update(name="recorded", demonstrations=str(path), **{"window": 2, **values})
    return task


@pytest.fixture
def file(tmp_path):
    """`file(array=value, …) → path`; None: without that array."""
    def write(**changes):
        path = tmp_path / f"file_{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **{k: v for k, v in {**ARRAYS, **changes}.items() if v is not None})
        return path

    return write


def test_episodes_are_cut_where_they_end(file):
    """Three of 4, 1 and 7 steps, numbers as they are, float32."""
    path = file(more=np.arange(3))
    trajectories, about = recorded.load(task_of(path))
    assert [len(t.actions) for t in trajectories] == [4, 1, 7]
    for name in ("observations", "actions"):
        joined = np.concatenate([getattr(t, name) for t in trajectories])
        assert joined.dtype == np.float32
        np.testing.assert_allclose(joined, ARRAYS[name], rtol=1e-6)
    assert about == {"demonstrations": f"{path}, 3 episodes", "simulator": "none", "episodes": 3,
                     "discarded": 0}


def test_without_ends_every_step_stands_alone(file):
    """Which is fine without windows and chunks, and refused with them."""
    path = file(episode_ends=None)
    trajectories, _ = recorded.load(task_of(path, window=1))
    assert [len(t.actions) for t in trajectories] == [1] * 12
    for values in ({"window": 2}, {"window": 1, "chunk": 3}):
        with pytest.raises(ConfigError, match="no array 'episode_ends'.*must be 1"):
            recorded.load(task_of(path, **values))


def test_sizes_are_those_of_the_file(file):
    """Or those given: then the file is not needed. A file of others is refused."""
    path = file()
    assert recorded.spec(task_of(path))[:6] == ("recorded", 3, 2, 0, 0, 0.0)
    path.unlink()
    given = {"observation_dim": 3, "action_dim": 2}
    assert recorded.spec(task_of(path, **given))[1:3] == (3, 2)
    assert recorded.spec(task_of("", **given))[1:3] == (3, 2)
    with pytest.raises(FileNotFoundError, match=f"no file {path}"):
        recorded.spec(task_of(path, observation_dim=3))
    path = file()
    assert len(recorded.load(task_of(path, **given))[0]) == 3
    for key, word in (("observation_dim", "observations"), ("action_dim", "actions")):
        with pytest.raises(ConfigError, match=f"{word} of .* config.task.{key} is 7"):
            recorded.load(task_of(path, **{key: 7}))


def test_a_file_that_was_changed_is_read_again(file):
    path = file()
    assert recorded.spec(task_of(path)).action_dim == 2
    np.savez(path, **{**ARRAYS, "actions": np.zeros((12, 5))})
    assert recorded.spec(task_of(path)).action_dim == 5


def spoilt(array, row, value):
    array = np.array(array)
    array[row] = value
    return array


@pytest.mark.parametrize("changes, words", [
    ({"actions": None}, r"no array 'actions'; it should hold .*, and holds observations"),
    ({"actions": None, "observations": None}, "no array 'observations' and no 'actions'"),
    ({"actions": np.zeros(12)}, r"actions of .* shape \(12,\)"),
    ({"actions": np.zeros((12, 0))}, r"shape \(12, 0\)"),
    ({"observations": np.zeros((12, 3, 1))}, r"shape \(12, 3, 1\)"),
    ({"observations": np.full((12, 3), "a")}, "should be numbers"),
    ({"actions": np.zeros((11, 2))}, "12 observations but 11 actions"),
    ({"observations": spoilt(ARRAYS["observations"], 5, np.nan)},
     r"observations .* 1 of 12 rows hold NaN or infinity \(the first is number 5\)"),
    ({"actions": spoilt(ARRAYS["actions"], [3, 7], np.inf)}, "actions .* 2 of 12 .* number 3"),
    ({"episode_ends": np.array([4, 4, 12])}, "episode 1 of .* has 0 steps"),
    ({"episode_ends": np.array([0, 12])}, "episode 0 of .* has 0 steps"),
    ({"episode_ends": np.array([5, 4, 12], np.uint8)}, "episode 1 of .* has -1 steps"),
    ({"episode_ends": np.array([4, 11])}, "the last of episode_ends .* is 11, but there are 12"),
    ({"episode_ends": np.array([4.0, 12.0])}, "should be integers"),
    ({"episode_ends": np.array([[4, 12]])}, r"shape \(1, 2\)"),
    ({"episode_ends": np.array([], int)}, r"shape \(0,\)"),
])
def test_a_file_that_is_not_as_described(file, changes, words):
    """One sentence that names the file and what is wrong with it, for sizes and for episodes."""
    path = file(**changes)
    for ask in (recorded.spec, recorded.load):
        with pytest.raises(ConfigError, match=words) as error:
            ask(task_of(path))
        assert str(path) in str(error.value)


def test_what_is_no_npz(tmp_path):
    """Text, a single array, a pickle, nothing."""
    (tmp_path / "text.npz").write_text("observations, actions")
    np.save(tmp_path / "single.npy", np.zeros((3, 2)))
    np.savez(tmp_path / "objects.npz", **{**ARRAYS, "actions": np.array([{}, {}], object)})
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "single.npy", "objects.npz", "empty.npz"):
        with pytest.raises(ConfigError, match="not a file of NumPy arrays"):
            recorded.load(task_of(tmp_path / name))
    for path in ("", tmp_path / "gone.npz", tmp_path):
        with pytest.raises((ConfigError, FileNotFoundError), match="config.task.demonstrations"):
            recorded.load(task_of(path))


def test_a_configuration_names_a_file_or_both_sizes(file):
    config = tiny(task__name="recorded", task__observation_dim=0, distill__noise__low=0.05)
    with pytest.raises(ConfigError, match="'recorded', which needs a file"):
        config_lib.validate(config)
    config.task.update(observation_dim=3, action_dim=2)
    config_lib.validate(config)
    config.task.update(observation_dim=0, action_dim=0, demonstrations=str(file()))
    config_lib.validate(config)


def test_the_problem_of_a_file(file):
    """Windows, goals and chunks of it; the held-out episode is none of those trained on."""
    config = tiny(task__name="recorded", task__demonstrations=str(file()), task__observation_dim=0,
                  task__window=2, task__chunk=2, task__goal_length=1)
    found = problem.data(config)
    assert found.spec == recorded.spec(config.task) and TASKS["recorded"] is recorded
    rows = sum(len(part.action) for part in (found.train, found.held_out))
    assert rows == 12 and found.about["held_out_episodes"] == 1
    assert found.train.observation.observations.shape[1:] == (2, 3)
    assert found.train.observation.goal.shape[1:] == (1, 3)
    assert found.train.action.shape[1:] == (4,)
    example = problem.example(config)
    assert jax.tree.map(lambda v: v.shape[1:], example) == jax.tree.map(
        lambda v: v.shape[1:], found.train)


def test_what_is_wrong_with_a_file_is_told_as_data(file):
    config = tiny(task__name="recorded", task__demonstrations=str(file(actions=None)),
                  task__observation_dim=3, task__action_dim=2)
    with pytest.raises(problem.DataError, match="config.task.demonstrations: .* no array 'act"):
        problem.data(config)
