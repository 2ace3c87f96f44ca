"""Official recordings of stacking: layout, the arm's kinematics, damaged and hostile files."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vdd_jax.tasks import stacking
from vdd_jax.tasks.avoiding.reader import read_pickle
from vdd_jax.tasks.stacking.kinematics import LIMITS, hand_pose, joints_at

READY = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])


def record(frames=6):
    joints = np.tile(READY, (frames, 1))
    joints[:, 0] += 0.01 * np.arange(frames)
    boxes = {name: {"pos": np.full((frames, 3), 0.1 * k),
                    "quat": np.tile([np.cos(0.25), 0.0, 0.0, np.sin(0.25)], (frames, 1))}
             for k, name in enumerate(("red-box", "green-box", "blue-box"), 1)}
    width = np.array([0.0799, 0.0799, 0.07, 0.0601, 0.06, 0.0785])[:frames]
    return {"robot": {"des_j_pos": joints, "gripper_width": width}, **boxes}


def write(folder: Path, content, name="env_000_00.pkl"):
    (folder / name).write_bytes(pickle.dumps(content))


def test_the_ready_pose_of_the_arm():
    """By hand: the upper arm leans back by 45°, the forearm is level, the hand points down."""
    x, y, z, yaw = hand_pose(READY[None])[0]
    s = np.sqrt(0.5)
    # Along the upper arm, off to the elbow, up to the forearm and along it, to the flange, down.
    by_hand = (-s * 0.316 + s * 0.0825 + 0.384 + 0.088, 0.0,
               0.333 + s * 0.316 + s * 0.0825 + 0.0825 - 0.212, 0.0)
    np.testing.assert_allclose((x, y, z, yaw), by_hand, atol=1e-9)
    turned = hand_pose((READY + [0.3, 0, 0, 0, 0, 0, 0])[None])[0]
    np.testing.assert_allclose(turned, [x * np.cos(0.3), x * np.sin(0.3), z, 0.3], atol=1e-9)
    wrist = hand_pose((READY + [0, 0, 0, 0, 0, 0, 0.2])[None])[0]
    np.testing.assert_allclose(wrist, [x, y, z, -0.2], atol=1e-9)  # it looks down


@pytest.mark.skipif("VDD_SHARED_DATA" not in os.environ, reason="VDD_SHARED_DATA is not set")
def test_kinematics_agree_with_the_benchmarks_own():
    """Its recordings of Avoiding hold joints and the pose that its simulator measured."""
    folder = Path(os.environ["VDD_SHARED_DATA"]) / "d3il_avoiding"
    for file in sorted(folder.glob("*.pkl"))[:5]:
        robot = read_pickle(file)["robot"]
        pose = hand_pose(robot["j_pos"])
        np.testing.assert_allclose(pose[:, :3], robot["c_pos"], atol=1e-3)
        w, x, y, z = robot["c_quat"].T
        yaw = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
        np.testing.assert_allclose(np.sin(pose[:, 3] - yaw), 0.0, atol=1e-3)


def test_yaw_does_not_jump():
    turning = np.tile(READY, (40, 1))
    turning[:, 6] = np.linspace(-2.8, 2.8, 40)
    turning[:, 0] = np.linspace(2.8, -2.8, 40)
    assert np.abs(np.diff(hand_pose(turning)[:, 3])).max() < 0.3


def test_joints_of_a_pose():
    """Back to the pose, down, near the joints before, and within their limits."""
    rng, joints = np.random.default_rng(0), READY
    pose = hand_pose(joints[None])[0]
    for _ in range(60):
        goal = np.clip(pose + rng.uniform(-1, 1, 4) * [0.02, 0.02, 0.02, 0.1],
                       [0.35, -0.25, 0.05, -1.5], [0.65, 0.25, 0.45, 1.5])
        found = joints_at(goal, joints)
        np.testing.assert_allclose(hand_pose(found[None])[0], goal, atol=1e-7)
        # down: a turn of the last joint is a turn about the vertical alone
        turned = hand_pose((found + [0, 0, 0, 0, 0, 0, 0.1])[None])[0]
        np.testing.assert_allclose(turned, goal - [0, 0, 0, 0.1], atol=1e-7)
        assert np.abs(found - joints).max() < 0.25
        pose, joints = goal, found
    far = joints_at(np.array([2.0, 0.0, 0.3, 0.0]), READY)
    assert np.isfinite(far).all() and (far >= LIMITS[0]).all() and (far <= LIMITS[1]).all()


def test_a_recording_is_read_into_the_layout_of_the_task(tmp_path):
    write(tmp_path, record())
    (trajectory,) = stacking.read(tmp_path)
    observations, actions = trajectory
    assert observations.shape == (5, 17) and actions.shape == (5, 5)
    assert observations.dtype == actions.dtype == np.float32
    pose = hand_pose(record()["robot"]["des_j_pos"])
    np.testing.assert_allclose(observations[:, :4], pose[:-1], atol=1e-6)
    np.testing.assert_allclose(actions[:, :4], np.diff(pose, axis=0), atol=1e-7)
    np.testing.assert_allclose(observations[:, 4], [0.08, 0.08, 0.06, 0.06, 0.06])
    np.testing.assert_allclose(actions[:, 4], [0.08, 0.06, 0.06, 0.06, 0.08])  # the next width
    np.testing.assert_allclose(
        observations[0, 5:], [v for k in (1, 2, 3) for v in (*[0.1 * k] * 3, np.tan(0.5))],
        rtol=1e-6)
    np.testing.assert_allclose(stacking.past_actions(observations), actions[:-1], atol=1e-6)


def test_a_column_of_widths_is_read_as_well(tmp_path):
    other = record()
    other["robot"]["gripper_width"] = other["robot"]["gripper_width"][:, None]
    write(tmp_path, record(), "a.pkl")
    write(tmp_path, other, "b.pkl")
    one, two = stacking.read(tmp_path)
    np.testing.assert_array_equal(one.actions, two.actions)


class Evil:
    def __reduce__(self):
        return os.system, ("touch never",)


def without(key):
    changed = record()
    del changed["robot"][key]
    return changed


def changed(name, key, value):
    other = record()
    other[name][key] = value
    return other


@pytest.mark.parametrize("content, message", [
    (Evil(), "refused, it wants to load"),
    (changed("robot", "des_j_pos", Evil()), "refused, it wants to load"),
    ([1, 2], "no array 'robot/des_j_pos'"),
    (without("des_j_pos"), "no array 'robot/des_j_pos'"),
    (without("gripper_width"), "no array 'robot/gripper_width'"),
    ({k: v for k, v in record().items() if k != "green-box"}, "no array 'green-box/pos'"),
    (changed("robot", "des_j_pos", np.zeros((6, 6))), r"expected \[T, 7\]"),
    (changed("robot", "gripper_width", np.zeros((6, 2))), r"expected \[T, 1\]"),
    (changed("robot", "gripper_width", np.full(6, np.nan)), "NaN or infinity"),
    (changed("robot", "gripper_width", np.zeros(5)), "frames"),
    (changed("blue-box", "quat", np.array(["a"] * 6)), "not an array of numbers"),
    (record(1), "frames"),
])
def test_other_files_are_refused_with_their_name(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, content)
    with pytest.raises(ValueError, match=f"env_000_00.pkl.*{message}"):
        stacking.read(tmp_path)
    assert not (tmp_path / "never").exists()


def test_a_cut_file_and_an_empty_directory_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no demonstrations"):
        stacking.read(tmp_path)
    write(tmp_path, record())
    file = tmp_path / "env_000_00.pkl"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a complete pickle"):
        stacking.read(tmp_path)
