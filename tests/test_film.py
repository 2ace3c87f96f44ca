"""Films: pictures of the episode, files, and what is refused."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax import config as config_lib
from vdd_jax import film
from vdd_jax.tasks import cameras

pytest.importorskip("mujoco", reason="mujoco is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Pictures of which the states can be told, so that no OpenGL is needed."""

    def draw_all(model, states, size, shown):
        assert states.shape[1] == model.nq
        values = (255 * np.abs(states[:, 0])).astype(np.uint8)
        return np.broadcast_to(values[:, None, None, None, None],
                               (len(states), len(shown), 8, 8, 3))

    monkeypatch.setattr(cameras, "draw_all", draw_all)
    monkeypatch.setattr(cameras, "opengl", lambda: None)


def test_the_demonstrator_is_filmed(tmp_path, capsys):
    out = tmp_path / "new" / "a.gif"
    film.main(["--task=block_push", "--mode=1", f"--out={out}"])
    printed = capsys.readouterr().out
    assert "success after" in printed and "mode 1" in printed
    steps = int(printed.split("after ")[1].split()[0])
    with Image.open(out) as picture:
        assert picture.is_animated
        # pictures that do not differ are kept as one that lasts longer
        assert steps / film.EVERY / 3 < picture.n_frames <= steps / film.EVERY + 2
    with pytest.raises(SystemExit, match="1"):
        film.main(["--task=block_push", f"--out={out}"])
    assert "exists; give another --out" in capsys.readouterr().err


def test_a_strip_has_a_row_for_each_camera(tmp_path):
    out = tmp_path / "a.png"
    film.main(["--task=stacking", f"--out={out}"])
    with Image.open(out) as picture:
        assert picture.size == (8 * film.STRIP, 16)
        first = np.asarray(picture)[0, 0, 0]
    assert first == int(255 * 0.525)  # where the hand starts


def test_a_policy_of_a_run_is_filmed(tmp_path, monkeypatch, capsys):
    """It is given the window that its run had, and what was done in it."""
    config = config_lib.default()
    config.task.update(name="pushing", window=3)
    config.distill.noise.low = 0.05
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    given = []

    def act(history, key):
        given.append((history.observations.shape, history.past_actions.shape))
        return jnp.full((1, 2), 0.001)

    policy = SimpleNamespace(goal_length=0, observation_dim=10, images=(), act=act)
    monkeypatch.setitem(film.ACTORS, "teacher", lambda workdir: policy)
    task = film.TASKS["pushing"]
    monkeypatch.setattr(task, "DEMONSTRATOR", task.DEMONSTRATOR._replace(
        rules=task.RULES._replace(limit=7)))
    out = tmp_path / "a.png"
    film.main([f"--workdir={tmp_path}", "--actor=teacher", f"--out={out}"])
    assert given == [((1, 3, 10), (1, 2, 2))]  # compiled once
    assert "no success after 7 steps" in capsys.readouterr().out and out.exists()
    policy.goal_length = 1
    with pytest.raises(SystemExit, match="1"):
        film.main([f"--workdir={tmp_path}", "--actor=teacher", f"--out={tmp_path / 'b.gif'}"])
    assert "pursues goals; films are of" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--task=stacking", "--out=a.mp4"], "should end in .gif or .png"),
    (["--out=a.gif"], "give either --task or --workdir"),
    (["--task=stacking", "--workdir=x", "--out=a.gif"], "give either --task or --workdir"),
    (["--task=stacking", "--mode=6", "--out=a.gif"], "stacking has the modes 0 to 5"),
    (["--task=avoiding", "--out=a.gif"], "invalid choice: 'avoiding'"),
    (["--workdir=nowhere", "--out=a.gif"], "nowhere holds no student"),
    (["--workdir=nowhere", "--actor=teacher", "--out=a.gif"], "nowhere is not the directory of a"),
])
def test_what_cannot_be_filmed_is_told_in_a_sentence(tmp_path, monkeypatch, capsys, arguments,
                                                     message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        film.main(arguments)
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
