"""The benchmark of one action, at tiny sizes: its rows compute what they say, and it runs. No
times."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
import actions  # noqa: E402
import step  # noqa: E402

TINY = step.Sizes(
    observation_dim=5, action_dim=3, window=3, goal_length=2, experts=2, teacher_width=8,
    teacher_depth=1, teacher_heads=2, student_width=8, student_depth=1, student_heads=2,
    head_width=6, gating_width=7, gating_depth=1)
SEEN = actions.observations(TINY, 2)
STUDENTS = ("jit", "aot", "export")
# by the beginning of a row's name
NEEDS = {"torch": "torch", "export": "flatbuffers", "onnx": "onnxruntime"}


@pytest.fixture(scope="module")
def act():
    """`act` of the row of a name, made once; skips where the row cannot run."""
    made = {}

    def of(name: str):
        if needed := NEEDS.get(name.split("-")[0]):
            pytest.importorskip(needed)
        if name not in made:
            library, network, kind = actions.ROWS[name].how.split()
            made[name] = actions.ACTORS[library](
                TINY, network, kind, len(SEEN.states), "cpu", 1)[0]
        return made[name]

    return of


# ---- what the rows compute

@pytest.mark.parametrize("name", [n for n in actions.ROWS if "compiled" not in n])
def test_every_row_gives_an_action(act, name):
    """NumPy, finite, of the right shape; numbers of other calls are other draws."""
    found = np.stack([act(name)(SEEN, number) for number in range(12)])
    assert isinstance(act(name)(SEEN, 0), np.ndarray)
    assert found.shape == (12, 2, 3) and np.isfinite(found).all()
    assert len(np.unique(found[:, 0], axis=0)) > 1


def test_bfloat16_is_near(act):
    """The same experts are drawn, and their means are those of float32 to what bfloat16 shows."""
    found, exact = (np.stack([act(name)(SEEN, number) for number in range(12)])
                    for name in ("aot-bfloat16", "aot"))
    assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("name", STUDENTS[1:])
def test_all_ways_to_compile_the_student_give_the_same_action(act, name):
    """For the same key; not for another one."""
    for number in range(8):
        np.testing.assert_allclose(
            act(name)(SEEN, number), act("jit")(SEEN, number), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["aot", "numpy", "onnx"])
def test_a_student_acts_by_the_mean_of_an_expert(act, name):
    """Over many draws an observation has as many actions as there are experts: those that the JAX
    student has."""
    found, ours = (np.stack([act(n)(SEEN, number) for number in range(actions.KEYS)])
                   for n in (name, "aot"))
    for of_one, expected in zip(found.swapaxes(0, 1), ours.swapaxes(0, 1), strict=True):
        means = np.unique(of_one.round(4), axis=0)
        np.testing.assert_allclose(means, np.unique(expected.round(4), axis=0), atol=2e-4)
        assert len(means) == TINY.experts


def test_the_pytorch_student_acts_by_the_mean_of_an_expert():
    """The benchmark has no covariances made: the means are those of the published pass."""
    torch = pytest.importorskip("torch")
    import published_torch

    torch.manual_seed(0)
    student = published_torch.Student(TINY).eval()
    states, goals, past = (torch.from_numpy(v) for v in SEEN)
    with torch.inference_mode():
        means = student(states, goals)[0][:, -1]
        drawn = [actions._torch_student(student, states, goals, past) for _ in range(20)]
    away = (torch.stack(drawn)[:, :, None] - means).abs().amax(-1)  # `[20, B, Z]`
    assert away.amin(-1).max() < 1e-5
    assert (away < 1e-5).any(0).all()  # every expert was drawn


def test_the_pytorch_teacher_is_sampled_by_ddim():
    """Where E[a|x] does not depend on x, the last step ends there, wherever it began; the noise
    levels go down from the greatest to the least."""
    torch = pytest.importorskip("torch")
    states, goals, past = (torch.from_numpy(v) for v in SEEN)
    levels = []

    def teacher(x, sigma, states, goals):
        levels.append(sigma[0].item())
        assert x.shape == (2, 3, 3) and sigma.shape == (2,)
        return (0.25 - x) / sigma[:, None, None] ** 2

    found = actions._torch_teacher(teacher, states, goals, past)
    np.testing.assert_allclose(found, np.full((2, 3), 0.25), atol=1e-6)
    np.testing.assert_allclose(levels, [1.0, 0.005**0.5, 0.005], rtol=1e-5)


# ---- the whole command

def test_rows_run_in_processes_of_their_own_or_say_why_not(tmp_path, capsys, monkeypatch):
    """PyTorch's are skipped without torch, and the compiled ones without a compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    names = [*(n for n in actions.ROWS if n.startswith("torch")), "aot"]
    given = ",".join(f"{name}={value}" for name, value in TINY._asdict().items())
    out = tmp_path / "new" / "actions.json"
    threads = min(2, len(os.sched_getaffinity(0)))
    assert actions.main(["--batches=2", f"--threads={threads}", "--rounds=2", "--each=8",
                         f"--rows={','.join(names)}", f"--sizes={given}", f"--out={out}"]) == 0
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    rows = record["batches"]["2"]
    assert list(rows) == names and record["sizes"] == TINY._asdict()
    assert 0 < rows["aot"]["p50_ms"] <= rows["aot"]["p99_ms"] and rows["aot"]["calls"] == 8
    assert {"jax", "flax"} <= set(rows["aot"]["versions"])
    missing = "torch is not installed"
    if importlib.util.find_spec("torch"):
        missing = "no C++ compiler was found, and torch.compile needs one for a CPU"
        assert rows["torch-teacher"]["of_teacher"] == [1, 1, 1]
        assert 0 < rows["aot"]["of_student"][0] and 0 < rows["aot"]["of_teacher"][0]
    else:
        assert rows["torch-student"]["skipped"] == rows["torch-teacher"]["skipped"] == missing
    for name in ("torch-student-compiled", "torch-teacher-compiled"):
        assert rows[name]["skipped"] == missing
        assert f"{rows[name]['title']}: skipped: {missing}" in printed


def found_by_measuring(names, *_):
    """What `step.measure` would, had every row run."""
    return {name: {"facts": {"device": "cpu"}, "peak_mib": 1.0, "busy": [1.0, 1.0],
                   "ms": [[1.0, 2.0, 2.0], [4.0, 4.0, 6.0]]} for name in names}


def test_every_row_has_a_line_in_table_and_record(tmp_path, capsys, monkeypatch):
    """And what it does, below the table; calls are fewer in greater batches."""
    asked = []

    def measure(names, sizes, batch, cores, device, precision, rounds, each, rows):
        asked.append((batch, rounds, each))
        return found_by_measuring(names)

    monkeypatch.setattr(step, "measure", measure)
    out = tmp_path / "actions.json"
    assert actions.main([f"--out={out}", "--each=60", "--batches=1,4,256"]) == 0
    assert asked == [(1, 9, 60), (4, 9, 15), (256, 9, actions.FEWEST)]
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    for rows in record["batches"].values():
        assert list(rows) == list(actions.ROWS)
        for row in rows.values():
            assert (row["p50_ms"], row["p99_ms"], row["calls"]) == (3.0, 6.0, 6)
    for row in actions.ROWS.values():
        assert printed.count(f"\n{row.title}  ") == 3  # tables
        assert f"{row.title}: {row.note}" in printed and f"{row.title}: {row.note}" in record[
            "notes"]


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in one round changes no ratio."""
    found = found_by_measuring(["torch-student", "torch-teacher", "aot"])
    found["aot"]["ms"] = [[0.5, 0.5, 9.0], [1.0, 1.0, 1.0]]
    found["torch-teacher"]["ms"] = [[5.0, 5.0, 5.0], [10.0, 10.0, 10.0]]
    rows = actions.summary(found)
    assert rows["aot"]["of_student"] == [0.25, 0.25, 0.25]
    assert rows["aot"]["of_teacher"] == [0.1, 0.1, 0.1]
    assert rows["torch-teacher"]["of_student"] == [2.5, 2.5, 2.5]


def test_a_row_that_fails_has_its_reason_in_the_table(tmp_path, capsys, monkeypatch):
    """And the command's exit status tells."""
    broken = actions.ROWS["aot"]._replace(module="no_such_module")
    monkeypatch.setattr(actions, "ROWS", {"aot": broken})
    assert actions.main(["--batches=1", "--each=1", "--rounds=1"]) == 1
    assert f"{broken.title}: failed: no_such_module is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--rows=aoot", "--sizes=widht=3", "--threads=100000"])
def test_wrong_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        actions.parse([option])
    assert option.split("=")[1] in capsys.readouterr().err
