"""The order of a run: whose the workdir is, what is skipped, what the report says."""

import json

import jax
import numpy as np
import pytest
from tiny_config import tiny, tiny_avoiding

from vdd_jax import config as config_lib
from vdd_jax import exchange, export, file_lock, numpy_policy, policy, problem, stages
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.stages import WorkdirError
from vdd_jax.tasks import avoiding

pytest_plugins = "smoke_run"


def content(directory):
    """Every file under a directory, by its bytes."""
    return {str(p.relative_to(directory)): p.read_bytes()
            for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A tiny run to look at; its directory and its report."""
    workdir = tmp_path_factory.mktemp("stages") / "deep" / "run"
    return workdir, stages.run(tiny(), workdir)


def test_the_report_has_the_fields_that_others_rely_on(ran):
    """Exactly these, on disk as returned, the whole configuration and the times of both stages."""
    workdir, report = ran
    stored = json.loads((workdir / "report.json").read_text(), parse_constant=pytest.fail)
    assert stored == json.loads(json.dumps(report))
    assert set(stored) == {"format", "task", "seed", "config", "versions", "wall_seconds",
                           "teacher", "student"}
    assert (stored["format"], stored["task"], stored["seed"]) == (2, "toy", 0)
    assert config_lib.from_json(stored["config"]) == config_lib.from_json(
        config_lib.to_json(tiny()))
    assert stored["versions"] == config_lib.versions()
    assert set(stored["wall_seconds"]) == {"distill", "evaluate"}
    assert all(0 < s < 600 for s in stored["wall_seconds"].values())
    assert json.loads((workdir / "wall_seconds.json").read_text()) == stored["wall_seconds"]
    for name in ("kl_teacher_student", "kl_student_teacher", "nll_teacher_samples"):
        assert isinstance(stored["student"][name], float)
    assert isinstance(stored["student"]["modes_found"], int)
    assert stored["student"]["modes_total"] == 2
    assert stored["teacher"]["kind"] == "analytic"


def test_a_run_opens_with_what_it_is_about_to_do(finished):
    """Devices, batch per device, parameter counts, iterations, before any work."""
    opening = finished.printed.split("[distill]")[0]
    lines = {line[:11].strip(): line[12:] for line in opening.splitlines()}
    assert lines["task"] == "toy: observation 1, action 2, 2 modes"
    assert f"{len(jax.devices())} × cpu" in lines["devices"]
    assert lines["batch"] == "32 states × 2 experts × 4 samples per device"
    assert lines["iterations"] == "800"
    assert lines["workdir"] == str(finished.workdir)
    params = policy.load(finished.workdir).params
    count = {k: sum(v.size for v in jax.tree.leaves(tree)) for k, tree in params.items()}
    assert lines["parameters"] == f"experts {count['experts']:,}, gating {count['gating']:,}"


def test_a_finished_stage_is_skipped(ran, capsys):
    """The second call says so, trains nothing, and its report is the first's."""
    workdir, report = ran
    before = content(workdir / "distill")
    times = json.loads((workdir / "wall_seconds.json").read_text())
    again = stages.run(tiny(), workdir)
    out = capsys.readouterr().out
    assert "[distill] finished before; skipped" in out and "20/20" not in out
    assert content(workdir / "distill") == before
    assert again["student"] == report["student"]
    assert again["wall_seconds"]["distill"] == times["distill"]


def test_how_a_run_is_run_may_change(ran):
    """Keys under `run`, and the stages, do not make it another configuration."""
    workdir, report = ran
    config = tiny(run__log_every=3, run__num_snapshots=0, stages=("evaluate",))
    assert stages.run(config, workdir)["student"] == report["student"]
    assert json.loads((workdir / "config.json").read_text())["run"]["log_every"] == 3


def test_a_workdir_of_another_configuration_is_refused(ran):
    """Every key that differs is named with both values, and nothing is changed."""
    workdir, _ = ran
    before = content(workdir)
    with pytest.raises(WorkdirError) as caught:
        stages.run(tiny(seed=1, distill__noise__low=0.01), workdir)
    text = str(caught.value)
    assert str(workdir) in text and "--overwrite" in text
    assert "config.seed: 0 → 1" in text and "config.distill.noise.low: 0.005 → 0.01" in text
    assert text.count("→") == 2
    assert content(workdir) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_workdir_in_which_a_run_is_at_work(ran, overwrite):
    """Refused, nothing moved aside; it is free again when that run has ended."""
    workdir, _ = ran
    with file_lock.held(workdir / stages.LOCK, ""):
        before = content(workdir)
        with pytest.raises(WorkdirError, match=r"another run is at work in .* \(process \d+ on "):
            stages.run(tiny(seed=1), workdir, overwrite=overwrite)
        assert content(workdir) == before
        assert not workdir.with_name(workdir.name + ".old-1").exists()
    with pytest.raises(WorkdirError, match="another configuration"):
        stages.run(tiny(seed=1), workdir)
    with file_lock.held(workdir / stages.LOCK, ""):  # that one has let go of it
        pass


def test_a_run_holds_its_workdir_while_it_is_at_work(tmp_path, monkeypatch):
    """A new one, one that goes on, and one in the place of another; not any longer."""
    held, lock = [], tmp_path / "run" / stages.LOCK

    def look(*_):
        with pytest.raises(file_lock.Busy), file_lock.held(lock, ""):
            pass
        held.append(True)

    monkeypatch.setattr(stages.evaluate, "run", look)
    for overwrite in (False, False, True):
        stages.run(tiny(stages=("evaluate",)), tmp_path / "run", overwrite=overwrite)
        with file_lock.held(lock, ""):
            pass
    assert len(held) == 3


def test_an_invalid_configuration_touches_nothing(tmp_path):
    """It is refused before there is a directory."""
    with pytest.raises(config_lib.ConfigError):
        stages.run(tiny(distill__noise__low=3.0), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_is_no_run(tmp_path, overwrite):
    """Refused and untouched; with `overwrite` moved aside, not deleted."""
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("words")
    if overwrite:
        stages.claim(tiny(), foreign, True)
        assert content(tmp_path / "thesis.old-1") == {"chapter.tex": b"words"}
        assert set(content(foreign)) == {"config.json"}
    else:
        with pytest.raises(WorkdirError, match="not empty and not a run of vdd_jax"):
            stages.run(tiny(), foreign)
        assert content(tmp_path) == {"thesis/chapter.tex": b"words"}


def test_a_file_in_place_of_the_workdir(tmp_path):
    """Refused by name."""
    (tmp_path / "run").write_text("words")
    with pytest.raises(WorkdirError, match="run is a file"):
        stages.run(tiny(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "words"


@pytest.mark.parametrize("stored", [b"{", b"[]", b'{"lr": 1}', b'{"seed": "x"}', b"\xff\xfe\x00"])
def test_a_config_file_of_something_else(tmp_path, stored):
    """A `config.json` that is not ours is refused, in words, and left."""
    (tmp_path / "config.json").write_bytes(stored)
    with pytest.raises(WorkdirError, match="config.json cannot be read as a configuration"):
        stages.run(tiny(), tmp_path)
    assert content(tmp_path) == {"config.json": stored}


def test_killed_while_the_workdir_was_claimed(tmp_path):
    """A half-written config.json is no reason to refuse the directory to the same run."""
    (tmp_path / "config.json.tmp").write_text('{"se')
    stages.claim(tiny(), tmp_path, False)
    assert set(content(tmp_path)) == {"config.json"}


def test_overwrite_loses_nothing(tmp_path, capsys):
    """What was there lies beside the workdir, under the first free name, and is named."""
    for n in range(3):
        stages.claim(tiny(seed=n), tmp_path / "run", overwrite=True)
    kept = {p.parent.name: json.loads(p.read_text())["seed"]
            for p in tmp_path.glob("*/config.json")}
    assert kept == {"run.old-1": 0, "run.old-2": 1, "run": 2}
    assert f"moved what was in {tmp_path / 'run'} to {tmp_path / 'run.old-2'}" in (
        capsys.readouterr().out)


def test_evaluation_without_a_student(tmp_path):
    """`stages = ('evaluate',)` in an empty workdir says what to run first."""
    with pytest.raises(CheckpointError, match="holds no student"):
        stages.run(tiny(stages=("evaluate",)), tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_distillation_alone_gives_a_student_and_no_report(tmp_path):
    """`stages = ('distill',)`; without snapshots none are kept."""
    report = stages.run(tiny(stages=("distill",), run__num_snapshots=0), tmp_path)
    assert report is None and not (tmp_path / "report.json").exists()
    assert not (tmp_path / "distill" / "snapshots").exists()
    assert policy.load(tmp_path).action_dim == 2


def test_runs_are_reproducible_and_seeds_differ(ran, tmp_path):
    """The same configuration gives the same student, bit for bit; another seed another."""
    workdir, report = ran
    stages.run(tiny(stages=("distill",)), tmp_path / "same")
    stages.run(tiny(stages=("distill",), seed=1), tmp_path / "other")
    first, same, other = (jax.tree.leaves(policy.load(d).params)
                          for d in (workdir, tmp_path / "same", tmp_path / "other"))
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(np.asarray(a) != b) for a, b in zip(first, other, strict=True))


def test_without_the_plot_extra(ran, monkeypatch, capsys):
    """Figures are left out with a sentence; the report is written."""
    import sys

    workdir, report = ran
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "vdd_jax.figures", raising=False)
    monkeypatch.delattr("vdd_jax.figures", raising=False)
    assert stages.run(tiny(run__figures=True), workdir)["student"] == report["student"]
    assert "pip install 'vdd_jax[plot]'" in capsys.readouterr().out
    assert not (workdir / "figures").exists()


def test_stages_have_keys_of_their_own_and_exchange_what_is_alike(tmp_path, monkeypatch):
    """Each that trains on batches of windows, by the key of the task; one whose weights belong to
    windows does not. The scaler has it too."""
    spec, stage_key, exchanged = problem.spec, problem.stage_key, exchange.exchanged
    alike, asked, moved = (((0, 1), (2, 3)),), [], []

    def asks(config, stage):
        asked.append(stage)
        return stage_key(config, stage)

    def moves(batch, things, key):
        assert things == alike
        moved.append(asked[-1])
        return exchanged(batch, things, key)

    monkeypatch.setattr(problem, "spec", lambda config: spec(config)._replace(alike=alike))
    monkeypatch.setattr(problem, "stage_key", asks)
    monkeypatch.setattr(exchange, "exchanged", moves)
    small = dict(task__exchange=True, teacher__num_iterations=4, distill__num_iterations=4,
                 distill__reallocations=0, run__steps_per_dispatch=4)
    rivals = dict(teacher__workdir=str(tmp_path / "a"), from_scratch__num_iterations=4,
                  from_scratch__batch_size=8, consistency__num_iterations=4,
                  consistency__batch_size=8, consistency__num_scales=4, **small)
    stages.run(tiny_avoiding(stages=("train_teacher", "distill", "evaluate"), **small),
               tmp_path / "a")
    stages.run(tiny_avoiding(stages=("consistency",), **rivals), tmp_path / "b")
    stages.run(tiny_avoiding(stages=("from_scratch",), **rivals), tmp_path / "c")
    assert asked == ["train_teacher", "distill", "evaluate", "consistency", "from_scratch"]
    assert {*moved} == {"train_teacher", "distill", "consistency"}
    std = problem.data(tiny_avoiding(**small)).scaler.observation_std
    np.testing.assert_allclose(std[:2], std[2:], rtol=1e-5)


def test_a_run_that_is_shown_places_from_elsewhere(tmp_path, monkeypatch):
    """From demonstrations to a policy of the task's own observations, and to its file for NumPy;
    a teacher that is not shown them is refused."""
    monkeypatch.setattr(avoiding, "SPEC", avoiding.SPEC._replace(relative=((2, 0), (3, 1))))
    small = dict(teacher__num_iterations=4, distill__num_iterations=4, distill__reallocations=0,
                 run__steps_per_dispatch=4)
    config = tiny_avoiding(stages=("train_teacher", "distill", "evaluate"), task__relative=True,
                           **small)
    stages.run(config, tmp_path / "a")
    found = policy.load(tmp_path / "a")
    assert found.scaler.relative.shape == (4, 2) and found.observation_dim == 4
    window = np.random.default_rng(0).normal(size=(5, found.window, 4)).astype(np.float32)
    assert np.isfinite(found.log_prob(window, found.sample(window, jax.random.key(0)))).all()
    ours = numpy_policy.NumpyPolicy(*export.numpy_content(found))
    np.testing.assert_allclose(ours.mixture(window).means, found.mixture(window).means,
                               rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="config.task.relative = True, but it is False"):
        stages.run(tiny_avoiding(stages=("distill",), teacher__workdir=str(tmp_path / "a"),
                                 **small), tmp_path / "b")
