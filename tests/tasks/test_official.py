"""The official simulators, through stand-ins that have their interface: what is sent and read."""

import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import closed_loop, config_keys
from vdd_jax import config as config_lib
from vdd_jax.tasks import TASKS, official
from vdd_jax.tasks.official import block_push, d3il, stacking
from vdd_jax.tasks.official.episode import Steps, padded
from vdd_jax.tasks.planar.sorting import orders
from vdd_jax.tasks.stacking.kinematics import hand_pose, joints_at

KEY = jax.random.key(0)


def put(monkeypatch, name, **content):
    """A module `name` and the packages above it."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(parts[i - 1]))
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


class Rod:
    """D3IL's environments: done after three steps, what is desired is what is measured."""

    made, info, start_pose = [], {"mode": 0, "success": True}, (0.5, -0.3, 0.25)

    def __init__(self, render=True, **arguments):
        self.arguments, self.commands, self.resets, self.started = arguments, [], [], not render
        type(self).made.append(self)

    def start(self):
        self.started &= True

    def robot_state(self):
        return np.array(self.start_pose)

    def check_failure(self):
        return False

    def reset(self, **how):
        print("noise on standard output")
        self.resets.append(how)
        self.count = 0
        return self.observe()

    def observe(self):
        return np.full(self.size, float(self.count), np.float32)

    def step(self, command):
        self.commands.append(command)
        self.count += 1
        return self.observe(), 0.0, self.count == 3, self.info


def environment(monkeypatch, task, size, info=None, **more):
    module, kind, _, _ = d3il.ENVIRONMENTS[task]
    made = type("Made", (Rod,), {"size": size, "made": [], "info": info or Rod.info, **more})
    put(monkeypatch, f"envs.gym_{module}_env.gym_{module}.envs.{module}", **{kind: made})
    return made


def config_of(task, **more):
    config = config_lib.default()
    config.task.update(name=task, simulator="official", window=2, **more)
    return config


def right(history, valid, key):
    """One centimetre a step along x; three steps of a chunk along y."""
    return jnp.zeros((1, 1, 2)).at[..., 0].set(0.01)


def test_commands_are_desired_positions(monkeypatch, capsys):
    """Moved by the action from the last command, at the start's height, facing down; the policy
    sees the last command and the observation; nothing is printed."""
    made, seen = environment(monkeypatch, "pushing", 8, {"mode": 1, "success": True}), []

    def watch(history, valid, key):
        jax.debug.callback(lambda h, v: seen.append((np.array(h), np.array(v))), history, valid,
                           ordered=True)
        return right(history, valid, key)

    episodes, _ = closed_loop.run(config_of("pushing"), watch, KEY, 2)
    jax.effects_barrier()
    assert capsys.readouterr().out == ""
    (simulator,) = made.made
    np.testing.assert_allclose(simulator.commands[:3], [
        [0.5 + 0.01 * i, -0.3, 0.25, 0, 1, 0, 0] for i in (1, 2, 3)], atol=1e-7)
    np.testing.assert_allclose(simulator.commands[3], simulator.commands[0])
    np.testing.assert_allclose(seen[0][0][0], [[0.5, -0.3, *[0] * 8]] * 2, atol=1e-7)
    assert seen[0][1].tolist() == [[False, True]]
    np.testing.assert_allclose(seen[2][0][0], [[0.51, -0.3, *[1] * 8], [0.52, -0.3, *[2] * 8]],
                               atol=1e-7)
    assert simulator.resets == [{"random": True, "context": None}] * 2
    assert list(episodes.steps) == [3, 3] and list(episodes.mode) == [3, 3]
    found = TASKS["pushing"].score(episodes)
    assert found["success"] == 1.0 and found["mode_histogram"] == [0, 0, 0, 2]


def test_aligning_moves_in_space(monkeypatch):
    made = environment(monkeypatch, "aligning", 17, {"mode": 1, "success": False})
    episodes = official.rollout(config_of("aligning").task,
                                lambda h, v, k: jnp.full((1, 1, 3), 0.01), KEY, 1)
    np.testing.assert_allclose(made.made[0].commands[-1], [0.53, -0.27, 0.28, 0, 1, 0, 0],
                               atol=1e-6)
    assert not episodes.success[0] and episodes.timed_out[0]
    assert TASKS["aligning"].score(episodes)["time_out"] == 1.0


def test_contexts_go_to_the_simulator_as_they_are(monkeypatch, tmp_path):
    made = environment(monkeypatch, "pushing", 8)
    contexts = [[np.array([0.45, -0.1, 10 * i]), np.array([1.0, 0, 0, 0])] * 2 for i in range(2)]
    (tmp_path / "test_contexts.pkl").write_bytes(pickle.dumps(contexts))
    episodes = official.rollout(config_of("pushing", contexts=str(tmp_path)).task, right, KEY, 3)
    assert [how["random"] for how in made.made[0].resets] == [False] * 3
    for how, i in zip(made.made[0].resets, (0, 1, 0), strict=True):
        np.testing.assert_array_equal(how["context"][0], contexts[i][0])
    assert list(episodes.context) == [0, 1, 0]


def test_avoiding(monkeypatch):
    """Its own way of saying what happened; contact is looked at before the step."""
    bits = np.zeros(9)
    bits[[1, 3, 8]] = 1
    made = environment(monkeypatch, "avoiding", 2, (bits, True))
    found = TASKS["avoiding"].score(official.rollout(config_of("avoiding").task, right, KEY, 2))
    assert made.made[0].resets == [{}] * 2 and made.made[0].arguments == {}
    assert found["success"] == 1.0 and found["collision"] == 0.0
    assert np.flatnonzero(found["mode_histogram"]).tolist() == [1 * 12 + 1 * 4 + 3]
    environment(monkeypatch, "avoiding", 2, (np.zeros(9), False), check_failure=lambda self: True)
    episodes = official.rollout(config_of("avoiding").task, right, KEY, 1)
    assert episodes.collided[0] and not episodes.timed_out[0] and episodes.mode[0] == -1


@pytest.mark.parametrize("n, limit", [(2, 500), (4, 700), (6, 1200)])
def test_sorting(monkeypatch, n, limit):
    """As many boxes and steps as the benchmark's; an order of colours is packed into a byte."""
    order = orders(n)[1]
    code = int(np.packbits(np.array(order, bool))[0])
    made = environment(monkeypatch, f"sorting_{n}", 2 + 3 * n, {"mode": code, "success": True})
    episodes = official.rollout(config_of(f"sorting_{n}").task, right, KEY, 1)
    assert made.made[0].arguments == {"num_boxes": n, "max_steps_per_episode": limit}
    assert episodes.mode[0] == 1
    assert TASKS[f"sorting_{n}"].score(episodes)["modes_found"] == 1
    assert d3il.mode_of(f"sorting_{n}", 0b11111111) == -1


FRAMES = np.random.default_rng(0).integers(0, 256, (6, 2, 4, 4, 3)).astype(np.uint8)


def observe_images(self):
    """The arm and two images, blue first, of the number of the step."""
    return np.zeros(2), *FRAMES[self.count, ..., ::-1]


def corners(images):
    """Features that tell red from blue, and one camera from the other."""
    return jnp.concatenate([images[:, 0, 0, 0, :2], images[:, 1, 0, 0, 2:]], -1) / 1.0


def test_sorting_is_shown_images(monkeypatch):
    """What was commanded and the features of what is seen now, in place of the boxes."""
    info, seen = {"mode": np.packbits([0, 1, 1, 0])[0], "success": True}, []
    made = environment(monkeypatch, "sorting_image", 0, info, observe=observe_images)

    def watch(history, valid, key):
        jax.debug.callback(lambda h: seen.append(np.array(h)), history, ordered=True)
        return right(history, valid, key)

    episodes, _ = closed_loop.run(config_of("sorting_image"), watch, KEY, 1,
                                  jax.tree_util.Partial(corners))
    jax.effects_barrier()
    (simulator,) = made.made
    assert simulator.arguments == {"num_boxes": 4, "max_steps_per_episode": 700,
                                   "if_vision": True}
    for i in range(3):
        features = [*FRAMES[i, 0, 0, 0, :2], FRAMES[i, 1, 0, 0, 2]]
        np.testing.assert_allclose(seen[i][0, 1], [0.5 + 0.01 * i, -0.3, *features], atol=1e-6)
    found = TASKS["sorting_image"].score(episodes)
    assert found["success"] == 1.0
    assert found["mode_histogram"][orders(4).index((0, 1, 1, 0))] == 1


def test_modes_of_pushing():
    """red→red first, green→green first, red→green first, green→red first; none."""
    assert [d3il.mode_of("pushing", m) for m in (0, 1, 2, 3, -1)] == [0, 3, 1, 2, -1]


READY = joints_at(np.array([0.525, 0.0, 0.3, 0.0]),  # where the benchmark begins
                  np.pi / 4 * np.array([0, -1, 0, -3, 0, 2, 1]))


class Arm(Rod):
    """D3IL's stacking: joints and width apart from the 12 numbers of the boxes."""

    modes = ("", "b", "br", "brg", "brg")  # after each step; then success, then done

    def robot_state(self):
        return np.append(READY, 0.0791), READY, np.zeros(4)

    def observe(self):
        return np.arange(12.0, dtype=np.float32) + self.count

    def step(self, command):
        self.commands.append(command)
        self.count += 1
        return self.observe(), 0, self.count == len(self.modes), {
            "mode": self.modes[self.count - 1], "success": self.count > 3}


def stacking_arm(monkeypatch, **more):
    return environment(monkeypatch, "stacking", None, **{**Arm.__dict__, **more})


def test_stacking_commands_are_joints_of_the_moved_pose(monkeypatch, capsys):
    """From those commanded last; the policy sees poses; a width opens or closes."""
    made, seen = stacking_arm(monkeypatch), []
    move = jnp.array([0.01, -0.005, -0.02, 0.03, 0.079])

    def watch(history, valid, key):
        jax.debug.callback(lambda h: seen.append(np.array(h)), history, ordered=True)
        return move.at[4].set(jnp.where(history[0, -1, 5] > 1.5, 0.02, 0.079))[None, None]

    episodes, _ = closed_loop.run(config_of("stacking"), watch, KEY, 2)
    jax.effects_barrier()
    assert capsys.readouterr().out == ""
    (simulator,) = made.made
    assert simulator.arguments == {"max_steps_per_episode": 1000}
    assert simulator.resets == [{"random": True, "context": None}] * 2
    commands = np.array(simulator.commands)
    assert commands.shape == (10, 8)
    start = hand_pose(READY[None])[0]
    np.testing.assert_allclose(hand_pose(commands[:5, :7]),
                               start + np.arange(1, 6)[:, None] * np.array(move[:4]), atol=1e-6)
    np.testing.assert_allclose(commands[:5, 7], [0.08, 0.08, 0.06, 0.06, 0.06])
    np.testing.assert_allclose(commands[5:], commands[:5], atol=1e-6)  # another episode
    np.testing.assert_allclose(seen[0][0, 1], [*start, 0.08, *range(12)], atol=1e-6)
    np.testing.assert_allclose(seen[3][0, 1], [*(start + 3 * move[:4]), 0.06, *range(3, 15)],
                               atol=1e-6)
    np.testing.assert_allclose(episodes.actions[0, :, :4], np.tile(move[:4], (5, 1)), atol=1e-7)
    np.testing.assert_allclose(
        TASKS["stacking"].past_actions(episodes.observations[0])[:, :4],
        np.tile(move[:4], (4, 1)), atol=1e-6)


def test_stacking_is_shown_images(monkeypatch):
    """Pose and width of the hand, and features; where boxes are is not known."""
    made = environment(monkeypatch, "stacking_image", None,
                       **{**Arm.__dict__, "observe": observe_images})
    ran = official.rollout(config_of("stacking_image").task,
                           lambda h, v, k: jnp.zeros((1, 1, 5)), KEY, 1,
                           jax.tree_util.Partial(corners))
    assert made.made[0].arguments == {"max_steps_per_episode": 1200, "if_vision": True}
    features = [*FRAMES[0, 0, 0, 0, :2], FRAMES[0, 1, 0, 0, 2]]
    np.testing.assert_allclose(ran.observations[0, 0], [*hand_pose(READY[None])[0], 0.08,
                                                        *features], atol=1e-6)
    assert np.isnan(ran.final_boxes).all()
    found = TASKS["stacking_image"].score(ran)
    assert (found["success"], found["success_2"]) == (1.0, 1.0)


def test_commands_of_stacking_stay_above_the_table(monkeypatch):
    made = stacking_arm(monkeypatch)
    ran = official.rollout(config_of("stacking").task,
                           lambda h, v, k: jnp.full((1, 1, 5), -0.5).at[..., :2].set(0), KEY, 1)
    low = np.array(TASKS["stacking"].RULES.scene.bounds[0])
    np.testing.assert_allclose(ran.observations[0, -1, 2:4], [low[2], 4 * -0.5], atol=1e-6)
    poses = hand_pose(np.array(made.made[0].commands)[:, :7])
    np.testing.assert_allclose(poses[1:, 2], low[2], atol=1e-6)


def test_scores_of_stacking(monkeypatch):
    """Orders by the simulator's letters, for one, two and three boxes."""
    still = lambda h, v, k: jnp.zeros((1, 1, 5))  # noqa: E731
    stacking_arm(monkeypatch)
    ran = official.rollout(config_of("stacking").task, still, KEY, 2)
    assert ran.events[0, :, 0].tolist() == [3, 4, 2] and ran.mode.tolist() == [4, 4]
    np.testing.assert_allclose(ran.final_boxes[0, 1], [9, 10, np.arctan(12)], atol=1e-6)
    found = TASKS["stacking"].score(ran)
    assert (found["success"], found["success_1"], found["success_2"]) == (1.0, 1.0, 1.0)
    stacking_arm(monkeypatch, modes=("", "g", "g"), step=lambda self, command: (
        *Arm.step(self, command)[:3], {"mode": self.modes[self.count - 1], "success": False}))
    found = TASKS["stacking"].score(official.rollout(config_of("stacking").task, still, KEY, 1))
    assert (found["success"], found["success_1"], found["success_2"]) == (0.0, 1.0, 0.0)


def test_contexts_of_stacking_go_to_the_simulator_as_they_are(monkeypatch, tmp_path):
    made = stacking_arm(monkeypatch)
    pose = [np.array([0.4, -0.2, 30.0], np.float32), np.array([1.0, 0, 0, 0])]
    (tmp_path / "test_contexts.pkl").write_bytes(pickle.dumps([(pose,) * 4] * 2))
    ran = official.rollout(config_of("stacking", contexts=str(tmp_path)).task,
                           lambda h, v, k: jnp.zeros((1, 1, 5)), KEY, 3)
    assert ran.context.tolist() == [0, 1, 0]
    assert [how["random"] for how in made.made[0].resets] == [False] * 3
    assert all(len(how["context"]) == 4 for how in made.made[0].resets)


def test_the_benchmarks_layout_of_stacking():
    """Joints, width and boxes, 20 numbers, become a pose, a width and boxes, 17."""
    state = np.concatenate([READY, [0.0751], np.arange(12.0)])
    np.testing.assert_allclose(stacking.ours(state),
                               [*hand_pose(READY[None])[0], 0.08, *range(12)])
    assert stacking.ours(np.concatenate([READY, [0.075], np.arange(12.0)]))[4] == 0.06


@pytest.mark.parametrize("task", ["avoiding", "block_push", "stacking"])
def test_a_missing_simulator_says_how_to_get_it(task):
    with pytest.raises(ImportError, match="put a checkout of .*PYTHONPATH"):
        official.rollout(config_of(task).task, right, KEY, 1)
    with pytest.raises(config_lib.ConfigError, match="simulator is 'official', but the official"):
        closed_loop.run(config_of(task), right, KEY, 1)


class Blocks:
    """BESO's block push; target 0 lies at larger x; the blocks enter one after the other."""

    def __init__(self, seed=None):
        self.actions, self.seed = [], seed

    def state(self):
        place = (0.52, 0.2) if self.count >= 2 else (0.4, -0.2)
        other = (0.28, 0.2) if self.count >= 4 else (0.4, -0.1)
        rows = (("block_translation", place), ("block_orientation", [0.1]),
                ("block2_translation", other), ("block2_orientation", [0.2]),
                ("effector_translation", [0.3, -0.4]),
                ("effector_target_translation", [0.31, -0.4]),
                ("target_translation", [0.52, 0.2]), ("target_orientation", [3.1]),
                ("target2_translation", [0.28, 0.2]), ("target2_orientation", [3.2]))
        return OrderedDict((name, np.array(value)) for name, value in rows)

    def reset(self):
        self.count, self.done = 0, []
        return self.state()

    def step(self, action):
        self.actions.append(action)
        self.count += 1
        self.done += [0] * (self.count == 2) + [3] * (self.count == 4)
        return self.state(), 0.0, self.count == 4, {"all_completions": self.done}


def test_block_push(monkeypatch):
    """Ten numbers are shown; targets are numbered in order of x; events have their steps."""
    put(monkeypatch, block_push._MODULE, BlockPushMultimodal=Blocks)
    shown = []

    def watch(history, valid, key):
        jax.debug.callback(lambda h: shown.append(np.array(h)), history, ordered=True)
        return right(history, valid, key)

    episodes = official.rollout(config_of("block_push").task, watch, KEY, 2)
    jax.effects_barrier()
    np.testing.assert_allclose(
        shown[0][0, -1], [0.4, -0.2, 0.1, 0.4, -0.1, 0.2, 0.3, -0.4, 0.31, -0.4], atol=1e-6)
    assert episodes.success.all() and list(episodes.steps) == [4, 4]
    assert episodes.events[0].tolist() == [[-1, 2], [4, -1]]
    assert list(episodes.mode) == [1, 1]  # block 0 first, into the target of larger x
    goal = np.zeros((1, 1, 10))
    goal[0, 0, :2], goal[0, 0, 3:5] = (0.52, 0.2), (0.3, 0.2)
    found = TASKS["block_push"].score(episodes, goal)
    assert found["goal_reached"] == 1.0 and found["success"] == 1.0


def test_episodes_of_different_lengths_are_padded():
    """The last observation repeated, actions 0."""
    found = padded([Steps(np.arange(2.0)[:, None], np.ones((2, 1)), None),
                    Steps(np.arange(3.0)[:, None], np.ones((3, 1)), None)])
    assert found["steps"].tolist() == [2, 3]
    assert found["observations"][..., 0].tolist() == [[0, 1, 1], [0, 1, 2]]
    assert found["actions"][..., 0].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert found["mask"].tolist() == [[True, True, False], [True] * 3]


def test_block_push_ends_at_its_limit(monkeypatch):
    never = type("Never", (Blocks,), {
        "step": lambda self, action: (self.state(), 0.0, False, {"all_completions": []})})
    put(monkeypatch, block_push._MODULE, BlockPushMultimodal=never)
    monkeypatch.setattr(block_push, "EPISODE_LIMIT", 5)
    episodes = official.rollout(config_of("block_push").task, right, KEY, 1)
    assert list(episodes.steps) == [5] and not episodes.success[0] and episodes.mode[0] == -1


def test_the_names_are_those_of_the_configuration():
    assert set(config_keys.OFFICIAL) == set(official.SIMULATORS) <= set(TASKS)


def test_other_tasks_have_none():
    config = config_lib.default()
    config.task.update(name="kitchen", simulator="official")
    with pytest.raises(config_lib.ConfigError, match="'official', which kitchen has not"):
        config_lib.validate(config)
