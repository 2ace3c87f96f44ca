"""What reproduces tables and figures: which runs it asks for, and what it shows of their reports.

Runs are made up but in the last test.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments" / "reproduce"))
import figure3  # noqa: E402
import figure4  # noqa: E402
import measures  # noqa: E402
import options  # noqa: E402
import plot  # noqa: E402
import published_sizes  # noqa: E402
import render  # noqa: E402
import runs as runs_lib  # noqa: E402
import table3  # noqa: E402
import tables  # noqa: E402
from runs import Failed, Place, Run  # noqa: E402
from tasks import METHODS, TASKS  # noqa: E402

from vdd_jax import stages  # noqa: E402

pytest_plugins = "smoke_run"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections

BESO = Run("avoiding", "", "beso", 0)
TEACHER = {"success": 0.9, "entropy": 0.8, "sliced_wasserstein": 0.1, "mmd": 0.0, "std_ratio": 1.0,
           "network_calls": 8, "latency_ms": {"p50": 0.3}}
MADE_UP = {
    "format": 2, "task": "avoiding", "seed": 0,
    "teacher": {**TEACHER, "simulator": "re-created Avoiding", "demonstrations": {
        "demonstrations": "scripted demonstrator, 480 episodes"}},
    "few_step_teachers": {"1": {**TEACHER, "success": 0.5, "network_calls": 1}},
    "student": {**TEACHER, "success": 0.7, "sliced_wasserstein": 0.25, "nll_held_out": -3.5,
                "episodes": 480, "modes_found": 20, "network_calls": 1},
}


def report(given: list[str], **student) -> dict:
    """As a run with these arguments would write it, the student's part as told."""
    config = runs_lib.configuration(given).to_dict()
    return {**MADE_UP, "config": config, "student": {**MADE_UP["student"], **student}}


def put(run: Run, place: Place, **student) -> Path:
    """A finished run; returns its report's file."""
    file = place.workdir(run) / "report.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report(runs_lib.arguments(run, place), **student)))
    return file


class Main:
    """In place of `vdd_jax.main`: notes its arguments, writes a report."""

    def __init__(self):
        self.workdirs, self.given, self.status = [], [], 0
        self.really = subprocess.run

    def __call__(self, command, **how):
        if command[0] == "git":
            return self.really(command, **how)
        assert command[:3] == [sys.executable, "-m", "vdd_jax.main"]
        workdir = Path(command[3].removeprefix("--workdir="))
        self.workdirs.append(workdir.name)
        self.given.append(command[4:])
        how["stdout"].write("first line\n" + "a line\n" * 20 + "what went wrong\n")
        if not self.status:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "report.json").write_text(json.dumps(report(command[4:])))
        return SimpleNamespace(returncode=self.status)


@pytest.fixture
def main(monkeypatch):
    stub = Main()
    monkeypatch.setattr(runs_lib.subprocess, "run", stub)
    return stub


@pytest.fixture
def where(tmp_path):
    return [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]


def cells(tmp_path: Path, name: str, row: str) -> list[list[str]]:
    """The cells of every row of that title in the Markdown."""
    lines = (tmp_path / "out" / f"{name}.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines
            if line.startswith("|")]
    return [cells[1:] for cells in rows if cells[0] == row]


# ---- which runs

def test_table_1_asks_for_a_teacher_before_those_who_share_it(main, tmp_path, where):
    """Two families; CD and CTM use the BESO teacher of their seed."""
    tables.main(["table1", "--seeds=0,3", *where, "--", "--config.task.held_out=0.2"])
    assert main.workdirs == [f"avoiding_{name}_seed{seed}" for seed in (0, 3) for name in (
        "ddpm_vdd", "beso_vdd", "beso_cd", "beso_ctm")]
    ddpm, beso, cd, ctm = main.given[:4]
    assert ddpm == [f"--config={ROOT}/configs/avoiding.py:vp", "--config.seed=0",
                    "--config.task.held_out=0.2"]
    assert beso[0] == f"--config={ROOT}/configs/avoiding.py"
    assert cd[3:] == [f"--config.teacher.workdir={tmp_path}/runs/avoiding_beso_vdd_seed0",
                      "--config.stages=('consistency','evaluate')",
                      "--config.consistency.method=cd"]
    assert ctm[-1] == "--config.consistency.method=ctm"
    assert "--config.seed=3" in main.given[-1]


def test_table_2_asks_for_mixtures_from_scratch(main, tmp_path, where):
    tables.main(["table2", "--smoke", "--seeds=1", *where])
    assert main.workdirs == [f"avoiding_smoke_beso_{m}_seed1" for m in (
        "vdd", "em", "imc", "bc_gmm")]
    assert main.given[3][2:] == [
        f"--config.teacher.workdir={tmp_path}/runs/avoiding_smoke_beso_vdd_seed1",
        "--config.stages=('from_scratch','evaluate')", "--config.from_scratch.method=bc_gmm"]
    assert all(given[0].endswith("avoiding.py:smoke") for given in main.given)
    assert "these numbers mean nothing" in (tmp_path / "out/table2_smoke.md").read_text()


def test_methods_and_families_restrict(main, tmp_path, where):
    """The teacher is made although its own columns are not shown."""
    tables.main(["table1", "--seeds=0", "--methods=cd", *where])
    assert main.workdirs == ["avoiding_beso_vdd_seed0", "avoiding_beso_cd_seed0"]
    assert cells(tmp_path, "table1", "") == [["CD"]] * 3
    tables.main(["table1", "--seeds=0", "--methods=vdd", "--families=ddpm", *where])
    assert cells(tmp_path, "table1", "") == [["DDPM", "DDPM-1", "VDD-DDPM"]] * 3


def test_the_recordings_with_either_teacher(main, where):
    """The DDPM configuration is a variant already: what the other does is told by a key."""
    tables.main(["table1", "--variant=recorded", "--seeds=0", "--methods=vdd", *where, "--",
                 "--config.task.demonstrations=data"])
    ddpm, beso = map(runs_lib.configuration, main.given)
    assert ddpm.teacher.schedule == "ddpm_cosine" and beso.teacher.schedule == "ve"
    assert ddpm.teacher.state_jitter == beso.teacher.state_jitter > 0


EVERY = [(task, variant, family) for task, variants in TASKS.items()
         for variant, families in variants.items() for family in families]


@pytest.mark.parametrize("task, variant, family", EVERY)
def test_every_task_can_be_asked_for(task, variant, family, tmp_path):
    """With teachers of its family, and by every method; no student sees more states than rivals."""
    for method, keys in METHODS.items():
        given = runs_lib.arguments(Run(task, variant, family, 0, method, keys), Place(tmp_path))
        config = runs_lib.configuration(given)
        assert config.task.name == task and not config.distill.visits
        if variant != "smoke" or task != "avoiding":  # whose only teacher there is of VE
            assert config.teacher.schedule == {"beso": "ve", "ddpm": "ddpm_cosine"}[family]


@pytest.mark.parametrize("variant", ["", "published"])
def test_figure_3_of_other_tasks(variant, main, tmp_path, where):
    """What the task alone scores stands beside the success."""
    figure3.main(["--tasks=pushing,block_push", f"--variant={variant}", "--seeds=0",
                  "--ablations=bound,experts", *where])
    name = "_".join(filter(None, ("figure3", variant)))
    head = cells(tmp_path, name, "number of experts (recommended)")
    assert [line[:2] for line in head] == [["success", "entropy of the modes"],
                                           ["success", "goal reached"]]


def test_finished_runs_are_skipped(main, where, capsys):
    arguments = ["table2", "--seeds=0", "--methods=em", *where]
    tables.main(arguments)
    tables.main(arguments)
    assert len(main.workdirs) == 2
    assert "[2/2] avoiding_beso_em_seed0: finished before" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["", '{"format": 1}', '{"format": 2}', "[]"])
def test_a_report_that_cannot_be_read(main, tmp_path, where, damaged):
    """Is made again, but never shown."""
    file = put(BESO, Place(tmp_path / "runs"))
    file.write_text(damaged)
    with pytest.raises(Failed, match="report.json .*given once more, evaluates it again"):
        tables.main(["table2", "--seeds=0", "--methods=vdd", "--render", *where])
    assert not main.workdirs
    tables.main(["table2", "--seeds=0", "--methods=vdd", *where])
    assert main.workdirs == ["avoiding_beso_vdd_seed0"]


def test_a_run_of_another_configuration_is_not_shown(main, tmp_path, where):
    """Which keys differ is told."""
    put(BESO, Place(tmp_path / "runs", rest=("--config.student.num_experts=3",)))
    with pytest.raises(Failed, match=r"config.student.num_experts: 3 → 16"):
        tables.main(["table2", "--seeds=0", "--methods=vdd", "--render", *where])


def test_keys_of_other_methods_do_not_matter(tmp_path):
    """A vdd run is one whatever EM would be given."""
    place = Place(tmp_path / "runs", rest=("--config.from_scratch.batch_size=3",))
    put(BESO, place)
    em = BESO._replace(method="em", overrides=tables.METHODS["em"])
    put(em, place)
    assert runs_lib.read(BESO, place._replace(rest=()))
    with pytest.raises(Failed, match="config.from_scratch.batch_size: 3 → "):
        runs_lib.read(em, place._replace(rest=()))


def test_a_failure_names_the_log_and_shows_its_end(main, tmp_path, where):
    """And nothing is run after it."""
    main.status = 1
    with pytest.raises(Failed) as failure:
        tables.main(["table1", "--seeds=0", *where])
    first, *rest = str(failure.value).splitlines()
    log = tmp_path / "runs/avoiding_ddpm_vdd_seed0.log"
    assert first == f"avoiding_ddpm_vdd_seed0 ended with status 1; its log {log} ends with:"
    assert len(rest) == runs_lib.LAST_LINES and rest[-1].strip() == "what went wrong"
    assert len(main.workdirs) == 1 and not (tmp_path / "out").exists()
    head, command = log.read_text().splitlines()[:2]
    assert head.startswith("# commit ") and "vdd_jax.main --workdir=" in command


def test_existing_runs_are_taken_and_not_touched(main, tmp_path, where):
    """Others use their teacher; only one family may be named; what is not there is no run of
    ours."""
    elsewhere = Place(tmp_path / "runs", {"beso": f"{tmp_path}/made_{{seed}}"})
    put(BESO, elsewhere, success=0.6)
    existing = f"--existing=beso={tmp_path}/made_{{seed}}"
    tables.main(["table2", "--seeds=0", "--methods=vdd,em", existing, *where])
    assert main.workdirs == ["avoiding_beso_em_seed0"]
    assert f"--config.teacher.workdir={tmp_path}/made_0" in main.given[0]
    assert cells(tmp_path, "table2", "avoiding")[0] == ["0.700 ± – (1)", "0.600 ± – (1)"]
    text = (tmp_path / "out/table2.md").read_text()
    assert "not recorded for vdd runs taken from elsewhere" in text and str(tmp_path) not in text
    with pytest.raises(Failed, match="--existing: there is no report in .*made_1"):
        tables.main(["table2", "--seeds=1", existing, *where])
    with pytest.raises(Failed, match="config.teacher.schedule: 've' → 'ddpm_cosine'"):
        tables.main(["table1", "--seeds=0", existing.replace("beso=", ""), *where])
    assert len(main.workdirs) == 1


@pytest.mark.parametrize("wrong, told", [
    (["--tasks=pulling"], "--tasks has 'pulling'; there are avoiding, block_push"),
    (["--methods=vdd,dc"], "--methods has 'dc'; there are vdd, cd, ctm"),
    (["--variant=recordings"], "has the variants recorded, published, smoke, not"),
    (["--variant=recorded"], "needs -- --config.task.demonstrations=DIR"),
    (["--seeds=a"], "--seeds is 'a'"),
    (["--existing=runs/{name}"], "only {task}, {family}, {seed}"),
    (["--", "config.seed=1"], "unexpected 'config.seed=1'"),
])
def test_a_wrong_option_is_told(wrong, told, capsys):
    with pytest.raises(SystemExit):
        tables.main(["table1", *wrong])
    assert told in capsys.readouterr().err


def test_a_wrong_key_is_told_before_anything_runs(main, where):
    with pytest.raises(Failed, match="num_expert"):
        tables.main(["table1", *where, "--", "--config.student.num_expert=2"])
    assert not main.workdirs


# ---- what is shown

def test_mean_deviation_and_the_papers_numbers(tmp_path, where):
    """Over two seeds; one seed has no deviation; what is missing is not invented."""
    place = Place(tmp_path / "runs")
    put(BESO, place, success=0.9)
    put(BESO._replace(seed=1), place, success=0.8)
    cd = BESO._replace(method="cd", overrides=tables.METHODS["cd"])
    put(cd, place, success=0.75, nll_held_out=None)
    tables.main(["table1", "--seeds=0,1", "--render", *where])
    success, entropy = cells(tmp_path, "table1", "avoiding")
    assert success == ["–", "0.900 ± 0.000 (2)", "–", "0.500 ± 0.000 (2)", "0.750 ± – (1)", "–",
                       "–", "0.850 ± 0.071 (2)"]
    assert entropy[1] == "0.800 ± 0.000 (2)"
    assert cells(tmp_path, "table1", "avoiding, paper") == [[
        "0.94", "0.96", "0.09", "0.84", "0.82 ± 0.05", "0.93 ± 0.02", "0.92 ± 0.02",
        "0.95 ± 0.01"]]
    label = {name: measure.label for name, measure in measures.MEASURES.items()}
    assert cells(tmp_path, "table1", label["sliced_wasserstein_by_floor"])[0][7] == (
        "2.50 ± 0.00 (2)")
    nll = cells(tmp_path, "table1", label["nll_held_out"])[0]
    assert nll[7] == "-3.500 ± 0.000 (2)" and nll[:7] == ["–"] * 7
    assert cells(tmp_path, "table1", label["network_calls"])[0] == [
        "–", "8", "–", "1", "1", "–", "–", "1"]
    record = json.loads((tmp_path / "out/table1.json").read_text())
    kept = record["tasks"]["avoiding"]
    assert kept["vdd_beso"]["success"]["values"] == [0.9, 0.8]
    assert kept["vdd_beso"]["paper"] == {"success": [0.95, 0.01]} and "success" not in kept["ctm"]


def test_tasks_that_score_more_have_more_rows(tmp_path, where):
    """Beside what the paper prints, which is not their success."""
    place = Place(tmp_path / "runs")
    beyond = {"kitchen": {"subtasks_of_goal": 3.5, "subtasks": 3.75},
              "block_push": {"goal_reached": 0.625}, "sorting_2": {},
              "stacking": {"success_1": 0.9, "success_2": 0.6, "entropy_1": 0.3, "entropy_2": 0.2}}
    for task, scores in beyond.items():
        put(Run(task, "", "beso", 0), place, **scores)
    tables.main(["table2", "--tasks=kitchen,block_push,sorting_2,stacking", "--seeds=0",
                 "--methods=em,vdd", "--render", *where])
    rows = {title: cells(tmp_path, "table2", title) for task in beyond for title in (
        task, f"{task}, paper")}
    assert [len(rows[task]) for task in beyond] == [2] * 4  # success and entropy
    assert not any(rows[f"{task}, paper"] for task in beyond)
    for title, ours, paper in (
            ("kitchen, sub-tasks of the goal", "3.50 ± – (1)", ["3.62 ± 0.10", "3.85 ± 0.10"]),
            ("block_push, goal reached", "0.625 ± – (1)", ["0.88 ± 0.04", "0.91 ± 0.03"]),
            ("stacking, one box placed", "0.900 ± – (1)", ["0.58 ± 0.06", "0.83 ± 0.09"]),
            ("stacking, two boxes placed", "0.600 ± – (1)", ["0.34 ± 0.07", "0.57 ± 0.06"])):
        assert cells(tmp_path, "table2", title) == [["–", ours]], title
        assert cells(tmp_path, "table2", f"{title}, paper") == [paper], title
    assert cells(tmp_path, "table2", "stacking, two boxes") == [["–", "0.200 ± – (1)"]]
    assert cells(tmp_path, "table2", "kitchen, sub-tasks") == [["–", "3.75 ± – (1)"]]
    kept = json.loads((tmp_path / "out/table2.json").read_text())["tasks"]["stacking"]["vdd_beso"]
    assert set(kept["paper"]) == {"success_1", "success_2"}


def test_the_paper_has_no_number_for_bc_gmm(tmp_path, where):
    tables.main(["table2", "--render", *where])
    assert cells(tmp_path, "table2", "avoiding, paper") == [[
        "0.65 ± 0.18", "0.75 ± 0.08", "–", "0.95 ± 0.01"]]
    assert cells(tmp_path, "table2", "avoiding") == [["–"] * 4] * 2


def test_notes_say_where_numbers_come_from(main, tmp_path, where):
    tables.main(["table2", "--seeds=0", "--methods=vdd", *where])
    text = (tmp_path / "out/table2.md").read_text()
    assert ("avoiding: 480 episodes a seed in re-created Avoiding; demonstrations: scripted "
            "demonstrator, 480 episodes.") in text
    assert "the simulator is not the paper's official one, and the demonstrations are not" in text
    assert f"Runs: 1 of 1, seeds 0. Commit of the runs: {runs_lib.commit()}; of this" in text
    assert "experiments/reproduce/table2.sh --seeds=0 --methods=vdd --runs=DIR --out=DIR" in text


def test_the_official_simulator_and_recordings_have_no_excuse():
    """And the directory of the recordings is not told."""
    made = {**MADE_UP, "teacher": {**TEACHER, "simulator": "D3IL", "demonstrations": {
        "demonstrations": "official D3IL pickles from /some/where, 96 episodes"}}}
    assert render._origin("avoiding", [made]) == [
        "avoiding: 480 episodes a seed in D3IL; demonstrations: official D3IL pickles from DIR, "
        "96 episodes."]


def test_relative_paths_are_told():
    assert options.without_paths("a/b.sh --runs=runs/x --out=/o/p 1/2") == (
        "a/b.sh --runs=runs/x --out=DIR 1/2")


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "figure3", "figure4"])
def test_every_script_passes_its_arguments(name, tmp_path):
    """From any directory."""
    told = subprocess.run([ROOT / f"experiments/reproduce/{name}.sh", "--seeds=0", "a b"],
                          cwd=tmp_path, env={"PYTHON": "echo", "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True, check=True).stdout.split(maxsplit=1)
    assert Path(told[0]).is_file() and told[1].endswith("--seeds=0 a b\n")


# ---- figures 3 and 4, table 3

def test_figure_3_changes_one_thing_at_a_time(main, where):
    """From the base of its panel, which is run once; the teacher is that of the vdd run."""
    figure3.main(["--seeds=0", "--families=ddpm", *where])
    of = dict(zip(main.workdirs, main.given, strict=True))
    assert len(of) == len(main.workdirs) == 1 + 10 + 6
    config = {name: runs_lib.config_lib.flatten(runs_lib.configuration(given))
              for name, given in of.items()}
    recommended, alone = (f"avoiding_ddpm_{name}_seed0" for name in ("vdd", "bounds_alone"))
    assert _changed(config[recommended], config[alone]) == {
        "distill.warm_start", "distill.likelihood_weight"}
    for name in set(of) - {recommended, alone}:
        base = alone if "bounds_alone" in name else recommended
        changed = {key.removesuffix(".kind").removesuffix(".low").removesuffix(".high")
                   for key in _changed(config[base], config[name])}
        assert len(changed) == 1, (name, changed)
        assert of[name][2].endswith(recommended)


def test_figure_3_does_not_run_the_same_bound_twice():
    """`scaled` of a VE teacher is `published`."""
    def bounds(family):
        asked = options.parse("figure3", "", ["--seeds=0", "--ablations=bound"],
                              ablations=figure3.ABLATIONS)
        return [list(panel.bars) for panel in figure3.panels(asked, "avoiding", family)]

    assert bounds("beso") == [["published", "diffused"]] * 2
    assert bounds("ddpm") == [["published", "scaled", "diffused"]] * 2


def _changed(a: dict, b: dict) -> set[str]:
    return {k for k in a if a[k] != b[k]} - {"stages", "teacher.workdir"}


def test_figure_3_draws_and_tells(tmp_path, where, monkeypatch):
    """Missing bars too; without matplotlib the tables are there, and why there is no picture."""
    put(BESO, Place(tmp_path / "runs"), success=0.875)
    arguments = ["--seeds=0", "--render", *where]
    figure3.main(arguments)
    drawn = tmp_path / "out/figure3_avoiding_beso.png"
    assert drawn.stat().st_size > 10_000
    assert cells(tmp_path, "figure3", "**16**")[0][0] == "0.875 ± – (1)"
    assert cells(tmp_path, "figure3", "8")[0] == ["–"] * len(figure3.SHOWN)
    assert "16 experts, learned gating" in (tmp_path / "out/figure3.md").read_text()
    drawn.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figure3.main(arguments)
    assert not drawn.exists() and "pip install 'vdd_jax[plot]'" in (
        tmp_path / "out/figure3.md").read_text()


def test_bars_of_nothing_are_drawn(tmp_path):
    plot.bars({"a": {"b": {"base": True}}}, "nothing", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_figure_4_collects_and_draws_what_is_missing(tmp_path, where, monkeypatch):
    """One run has its picture, one is drawn, one has kept no episodes, one is not there."""
    from vdd_jax import figures

    place, asked = Place(tmp_path / "runs"), []
    for seed in range(3):
        folder = put(BESO._replace(seed=seed), place).parent
        config = report(runs_lib.arguments(BESO._replace(seed=seed), place))["config"]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "figures").mkdir()
    (place.workdir(BESO) / "figures/trajectories.png").write_text("first")

    def draw(config, workdir):
        asked.append(config.seed)
        if config.seed == 1:
            (workdir / "figures/trajectories.png").write_text("second")

    monkeypatch.setattr(figures, "draw", draw)
    figure4.main(["--seeds=0,1,2,3", "--families=beso", "--render", *where])
    assert asked == [1, 2]
    out = tmp_path / "out"
    assert [(out / f"figure4_avoiding_beso_seed{k}.png").read_text() for k in (0, 1)] == [
        "first", "second"]
    text = (out / "figure4.md").read_text()
    assert "the run has kept no episodes" in text and "20 modes" in text
    assert text.count("![") == 2 and "seed 3\n\n–" in text


@pytest.fixture
def tiny_networks(monkeypatch):
    sizes = published_sizes.Sizes(
        observation_dim=5, action_dim=3, window=3, goal_length=2, experts=2, teacher_width=8,
        teacher_depth=1, teacher_heads=2, student_width=8, student_depth=1, student_heads=2,
        head_width=6, gating_width=7, gating_depth=1)
    config = published_sizes.step_jax.configure(sizes, "last", 1)
    monkeypatch.setattr(published_sizes, "CALLS", {"DDPM": (2,), "BESO": (1,), "CD": (1,),
                                                   "CTM": (2,)})
    monkeypatch.setitem(published_sizes.SIZES, "kitchen",
                        lambda: published_sizes.Sized(config, sizes))
    monkeypatch.setattr(table3, "WARM_UP", 1)


def test_table_3_times_policies_that_act(tiny_networks, tmp_path):
    """Every one of them, with the goal; the record can be shown again."""
    sized = published_sizes.SIZES["kitchen"]()
    sizes, actors = sized.sizes, published_sizes.policies(sized)
    seen = published_sizes.step_jax.random_windows(sizes, 1).observation
    given = table3.History(seen.observations[0], None, seen.past_actions[0], seen.goal[0])
    for name, actor in actors.items():
        action = actor.act(given, jax.random.key(0))
        assert action.shape == (3,) and np.isfinite(action).all(), name
    assert [actors[name].network_calls for name in ("DDPM, 2 calls", "CTM, 2 calls")] == [2, 2]

    found = table3.measure(actors, sizes, (), rounds=2, each=2)
    assert all(len(times) == 2 and min(times) > 0 for times in found.values())
    of = table3.summary({published_sizes.VDD: [1.0, 2.0], "CD, 1 call": [3.0, 8.0]})
    assert of["CD, 1 call"] == {"ms": [5.5, 3.0, 8.0], "ratio_to_vdd": [3.5, 3.0, 4.0]}

    (tmp_path / "out").mkdir()
    (tmp_path / "out/table3.json").write_text(json.dumps({
        "device": "cpu", "cpu": "a CPU", "versions": {"jax": "0"}, "rounds": 2, "each": 2,
        "commit": "abc", "command": "table3.sh", "sizes": {"kitchen": of}}))
    table3.main(["--render", f"--out={tmp_path / 'out'}"])
    assert cells(tmp_path, "table3", "CD, 1 call") == [
        ["5.500 [3.000, 8.000]", "3.50 [3.00, 4.00]"]]


def test_table_3_times_policies_that_see(tiny_networks, monkeypatch):
    """Images are part of an action's time, and are seen by all."""
    config, sizes = published_sizes.SIZES["kitchen"]()[:2]
    config.teacher.vision.update(channels=(16,), width=4)
    monkeypatch.setattr(published_sizes, "CALLS", {"DDPM": (1,), "BESO": (), "CD": (),
                                                   "CTM": ()})
    sizes, images = sizes._replace(goal_length=0), (2, 16, 16, 3)
    actors = published_sizes.policies(published_sizes.Sized(config, sizes, images))
    assert all(len(times) == 1 for times in table3.measure(actors, sizes, images, 1, 1).values())
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, sizes.window, *images), np.uint8)
    seen = table3.History(np.zeros((2, sizes.window, 5)), images=frames,
                          past_actions=np.zeros((2, sizes.window - 1, 3)))
    for name, actor in actors.items():
        key = jax.random.key(0)
        moved = actor.act(seen, key) - actor.act(seen._replace(images=frames[::-1]), key)
        assert actor.scaler.encode is not None and moved.shape == (2, 3)
        # a last layer of zeros, as others have at first, sees nothing
        assert np.abs(moved).max() > 1e-6 or not name.startswith("VDD"), name


def test_published_sizes_are_those_of_the_configuration():
    config, sizes, images = published_sizes.SIZES["avoiding"]()
    assert images == ()
    assert (config.teacher.width, config.teacher.depth, config.student.num_experts) == (72, 4, 8)
    assert (sizes.observation_dim, sizes.action_dim, sizes.window, sizes.goal_length) == (
        4, 2, 5, 0)
    assert published_sizes.kitchen().config.teacher.width == 360
    config, sizes, images = published_sizes.SIZES["sorting_image"]()
    assert images == (2, 96, 96, 3) and (sizes.observation_dim, sizes.window) == (2, 5)
    assert (config.teacher.width, config.teacher.vision.width) == (72, 64)


# ---- for real

def test_table_2_of_one_method_for_real(tmp_path, where):
    """EM in a process of its own, with a teacher that is there; a second time nothing is run."""
    smaller = ("--config.teacher.num_iterations=2", "--config.teacher.sampler.num_steps=2",
               "--config.from_scratch.num_iterations=2", "--config.evaluate.num_episodes=2",
               "--config.evaluate.teacher_steps=()", "--config.policy.min_weight=0.0",
               "--config.run.figures=False")
    place, vdd = Place(tmp_path / "runs", rest=smaller), BESO._replace(variant="smoke")
    stages.run(runs_lib.configuration([
        *runs_lib.arguments(vdd, place), "--config.stages=('train_teacher',)"]),
        place.workdir(vdd))
    put(vdd, place)
    arguments = ["table2", "--smoke", "--seeds=0", "--methods=em", *where, "--", *smaller]
    tables.main(arguments)
    success, entropy = cells(tmp_path, "table2_smoke", "avoiding")
    assert success[0].endswith(" ± – (1)") and entropy[0].endswith(" ± – (1)")
    trained = place.runs / "avoiding_smoke_beso_em_seed0/from_scratch"
    shutil.rmtree(trained)  # would be made again
    tables.main(arguments)
    assert not trained.exists()
