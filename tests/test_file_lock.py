"""A file that is held: nobody else gets in, whoever waits does, and a dead process lets go."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from vdd_jax import file_lock
from vdd_jax.file_lock import Busy, held

HOLD = """
import sys
from pathlib import Path
from vdd_jax.file_lock import held
with held(Path(sys.argv[1]), "waiting"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "lock"


def enter(file, **values):
    with held(file, "waiting", **values):
        return True


def test_nobody_else_gets_in(file):
    """The one that has it is named; afterwards it is free, an error within included."""
    with held(file, "waiting"):
        with pytest.raises(Busy, match=f"^process {os.getpid()} on "):
            enter(file)
    with pytest.raises(ZeroDivisionError), held(file, "waiting"):
        1 / 0  # noqa: B018
    assert enter(file)


def test_a_process_that_is_killed_lets_go(file):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"^process {other.pid} on "):
            enter(file)
        other.kill()
    assert enter(file)


def test_who_waits_gets_in_when_the_other_is_done(file, capsys):
    """And says so once."""
    inside, leave, entered = threading.Event(), threading.Event(), threading.Event()

    def first():
        with held(file, "waiting"):
            inside.set()
            leave.wait(60)
            assert not entered.is_set()

    def second():
        enter(file, patience=file_lock.FOREVER)
        entered.set()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    assert not entered.wait(1.2)
    leave.set()
    for thread in threads:
        thread.join()
    assert entered.is_set()
    assert capsys.readouterr().out == f"waiting ({file.read_text()})\n"


def test_a_holder_of_another_host_may_be_dead(file, capsys, monkeypatch):
    """A file server notices that late, so it is waited for; not for ever."""
    monkeypatch.setattr(file_lock, "LEASE", 0.2)
    with held(file, "waiting"):
        file.write_text("process 7 on elsewhere")
        with pytest.raises(Busy, match="^process 7 on elsewhere$"):
            enter(file)
    assert capsys.readouterr().out == "waiting (process 7 on elsewhere)\n"


def test_without_locks_nobody_is_kept_out(file, monkeypatch):
    """A file system that has none, and a system."""
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(file_lock.fcntl, "flock", none)
        with held(file, "waiting"):
            assert enter(file)
    monkeypatch.setattr(file_lock, "fcntl", None)
    with held(file, "waiting"):
        assert enter(file)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError):
        enter(tmp_path / "missing" / "lock")
