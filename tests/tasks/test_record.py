"""The command that records: what it writes, going on after a kill, what it refuses."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vdd_jax.tasks import avoiding, record, recording_file
from vdd_jax.tasks.planar import block_push, recording


def command(out, *, task="block_push", episodes=6, seed=3):
    return [f"--task={task}", f"--episodes={episodes}", f"--out={out}", f"--seed={seed}"]


def test_the_scripted_tasks():
    assert {"avoiding", "block_push", "sorting_6", "stacking"} <= set(record.SCRIPTED)
    assert not {"toy", "recorded"} & set(record.SCRIPTED)


PROGRAM = """
import sys, time
from vdd_jax.tasks import record
from vdd_jax.tasks.planar import recording

recording.CHUNK, take = 2, recording.take

def waits(demonstrator, first, *rest):
    if first == 4:
        time.sleep(600)
    return take(demonstrator, first, *rest)

if sys.argv.pop(1) == "waits":
    recording.take = waits
record.main()
"""


def test_a_killed_recording_goes_on_to_the_same_bits(tmp_path):
    """Killed, not stopped: nothing could be tidied up."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    out, whole = tmp_path / "a.npz", tmp_path / "whole.npz"

    def program(how, out):
        return [sys.executable, "-c", PROGRAM, how, *command(out)]

    with subprocess.Popen(program("waits", out), stdout=subprocess.DEVNULL) as process:
        parts = tmp_path / "a.npz.parts"
        while process.poll() is None and len(list(parts.glob("*.npz"))) < 2:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists() and len(list(parts.glob("*.npz"))) == 2
    ends = subprocess.run(program("runs", out), capture_output=True, text=True, check=True)
    assert ends.stdout.strip().splitlines()[-1].startswith(f"{out}: 6 episodes of block_push")
    assert not parts.exists()
    subprocess.run(program("runs", whole), check=True)
    assert out.read_bytes() == whole.read_bytes()
    found = recording_file.read(out)
    np.testing.assert_array_equal(found.modes, [0, 1, 2, 3, 0, 1])
    assert recording_file.read_about(out)["demonstrator"] == recording.identity(
        block_push.DEMONSTRATOR, 3)


def test_avoiding_is_recorded_as_it_is_loaded(tmp_path, capsys):
    out = tmp_path / "deep" / "a.npz"
    record.main(command(out, task="avoiding", episodes=30, seed=0))
    found = recording_file.read(out)
    assert len(found.trajectories) == 30 and found.modes[25] == 1
    for one, other in zip(found.trajectories, avoiding.demonstrate(0, 2), strict=False):
        np.testing.assert_array_equal(one.actions, other.actions)
    before = out.read_bytes()
    record.main(command(out, task="avoiding", episodes=30, seed=0))
    assert "holds these episodes already" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        record.main(command(out, task="avoiding", episodes=31, seed=0))
    assert "exists and holds something else" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_the_same_command_twice_at_once(tmp_path, monkeypatch):
    """The second waits for the first."""
    out, said, take = tmp_path / "a.npz", [], record.take
    second = threading.Thread(target=lambda: said.append(record.run("avoiding", 24, out)))

    def slow(*arguments):
        second.start()  # twice would be an error
        second.join(1.0)
        assert second.is_alive()
        return take(*arguments)

    monkeypatch.setattr(record, "take", slow)
    said.append(record.run("avoiding", 24, out))
    second.join()
    assert sorted(words.partition(":")[0] for words in said) == [
        f"{out}", f"{out} holds these episodes already"]
    assert list(tmp_path.iterdir()) == [out]


def test_the_beginning_of_another_recording_is_not_gone_on_from(tmp_path, capsys, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "take", stopped)
    with pytest.raises(SystemExit, match="130"):
        record.main(command(tmp_path / "a.npz", task="avoiding", seed=0))
    assert "the same command goes on" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        record.main(command(tmp_path / "a.npz", task="avoiding", seed=1))
    assert "holds the beginning of another recording" in capsys.readouterr().err
    (tmp_path / "b.images").mkdir()
    with pytest.raises(SystemExit, match="1"):
        record.main([*command(tmp_path / "b.npz", task="stacking"), "--images"])
    assert "b.images exists; remove it" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    ({"episodes": 0}, "--episodes is 0; it should be at least 1"),
    ({"seed": -1}, "--seed is -1; it should be at least 0"),
    ({"task": "stackin"}, "invalid choice: 'stackin'"),
    ({"task": "toy"}, "invalid choice: 'toy'"),
])
def test_what_cannot_be_recorded_is_told_in_a_sentence(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit, match="1"):
        record.main(command(tmp_path / "a.npz", **arguments))
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_file_needs_a_name_and_a_place(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(record, "take", lambda *arguments: pytest.fail("recorded in vain"))
    for out, message in ((tmp_path / "a.npy", "should end in .npz"),
                         (tmp_path / "file" / "a.npz", "Not a directory")):
        with pytest.raises(SystemExit, match="1"):
            record.main(command(out, task="avoiding"))
        assert message in capsys.readouterr().err


def test_a_missing_simulator_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(SystemExit, match="1"):
        record.main(command(tmp_path / "a.npz"))
    assert "pip install 'vdd_jax[sim]'" in capsys.readouterr().err
