"""The command line: what it prints, what it writes, how it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from vdd_jax import config as config_lib
from vdd_jax import main, stages
from vdd_jax.checkpoint import CheckpointError
from vdd_jax.metrics import TrainingDiverged

pytest_plugins = "smoke_run"

ROOT = Path(__file__).parents[1]
TOY = "--config=configs/toy.py"

# Runs every command line in a fork of one process, as importing JAX takes seconds.
DRIVER = """
import json, os, sys, tempfile, traceback
from vdd_jax import main

results = []
for argv in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["vdd_jax.main", *argv]
            code = 0
            try:
                main.main()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        results.append((code, out.read().decode(), err.read().decode()))
json.dump(results, sys.stdout)
"""


def environment():
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


# name: (arguments, words of the message)
REFUSED = {
    "no config": ([], ["--config=FILE"]),
    "missing file": (["--config=configs/tay.py"], ["no configuration file 'configs/tay.py'"]),
    "missing file, spaced": (["--config", "configs/tay.py"], ["configs/tay.py"]),
    "unknown variant": ([TOY + ":smok"], ["variants paper and smoke", "'smok'"]),
    "unknown key": ([TOY, "--config.student.num_expert=3"],
                    ["unknown key config.student.num_expert",
                     "did you mean config.student.num_experts?"]),
    "unknown group": ([TOY, "--config.optim.learning_rate=3"],
                      ["unknown key config.optim.learning_rate",
                       "or config.from_scratch.learning_rate?"]),
    "unknown flag": ([TOY, "--wokdir=x"], ["wokdir", "workdir"]),
    "dashes forgotten": ([TOY, "config.seed=1"], ["unexpected 'config.seed=1'", "--config.KEY="]),
    "a word for an integer": ([TOY, "--config.seed=one"], ["seed", "one"]),
    "a float for an integer": ([TOY, "--config.student.num_experts=2.5"], ["num_experts", "2.5"]),
    "a word for a float": ([TOY, "--config.task.radius=wide"], ["radius", "wide"]),
    "out of range": ([TOY, "--config.task.mode_std=-1"],
                     ["config.task.mode_std is -1.0; it should be greater than 0"]),
    "several": ([TOY, "--config.task.mode_std=-1", "--config.distill.bound=exact"],
                ["config.task.mode_std", "config.distill.bound is 'exact'"]),
    "inconsistent": ([TOY, "--config.task.mode_weights=(.5,.5)", "--config.distill.noise.low=9"],
                     ["mode_weights has 2 numbers", "noise.low is above"]),
    "another configuration": ([TOY + ":smoke", "--workdir={claimed}", "--config.seed=1"],
                              ["{claimed}", "another configuration", "config.seed: 0 → 1"]),
    "a foreign directory": ([TOY + ":smoke", "--workdir={foreign}"],
                            ["{foreign}", "not empty and not a run of vdd_jax"]),
    "processes without a coordinator": ([TOY, "--num_processes=2"], ["need --coordinator"]),
    "a coordinator of nobody": ([TOY, "--coordinator=localhost:1", "--num_processes=2"],
                                ["--coordinator=localhost:1 needs --num_processes=N"]),
    "more devices than there are": (
        [TOY + ":smoke", "--workdir={untouched}", "--config.run.devices=99"],
        ["config.run.devices is 99, but there are "]),
}

PRINTED = {
    "toy": [TOY, "--print_config"],
    "modes": [TOY, "--print_config", "--config.task.num_modes=5"],
    "experts": [TOY, "--print_config", "--config.student.num_experts=16"],
    "both": [TOY, "--print_config", "--config.student.num_experts=16",
             "--config.task.num_modes=5", "--config.seed=3", "--config.student.gating=uniform",
             "--config.task.radius=3", "--config.task.mode_std=0.15",
             "--config.task.observation_dim=2",
             "--config.task.mode_weights=(.2,.2,.2,.2,.2)"],
    "paper": [TOY + ":paper", "--print_config", "--config.task.num_modes=5"],
    "nowhere": [TOY, "--print_config", "--workdir={untouched}"],
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("main")
    found = {name: folder / name for name in ("claimed", "foreign", "untouched")}
    spec = {}
    exec((ROOT / "configs" / "toy.py").read_text(), spec)
    stages.claim(spec["get_config"]("smoke"), found["claimed"], False)
    found["foreign"].mkdir()
    (found["foreign"] / "thesis.tex").write_text("words")
    return found


@pytest.fixture(scope="module")
def results(directories):
    """(exit status, stdout, stderr) of every command line above."""
    lines = {**{name: argv for name, (argv, _) in REFUSED.items()}, **PRINTED}
    argvs = [[a.format(**directories) for a in argv] for argv in lines.values()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER], cwd=ROOT, env=environment(),
        input=json.dumps(argvs), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, json.loads(done.stdout), strict=True))


def test_how_jax_is_set_up(tmp_path):
    """Programs are kept under the user's cache directory unless the user says where, and run on
    the calling thread."""
    code = ("from vdd_jax import main; main._configure_jax(); import jax; "
            "print(jax.config.jax_compilation_cache_dir, "
            "jax.config.read('jax_cpu_enable_async_dispatch'))")
    given = {**environment(), "XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    for said, expected in (("", str(tmp_path / "vdd_jax" / "xla")), ("/elsewhere", "/elsewhere")):
        given["JAX_COMPILATION_CACHE_DIR"] = said
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True,
                              text=True, timeout=100, check=True)
        assert done.stdout.split() == [expected, "False"]


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_one_short_message(results, directories, name):
    """Exit status not 0, nothing on stdout, on stderr a sentence that names it, no traceback."""
    code, out, err = results[name]
    assert code not in (0, 99)
    assert out == ""
    assert err.startswith("error: ") and "Traceback" not in err and 'File "' not in err
    assert len(err.strip().splitlines()) <= 5 and len(err) < 700
    for word in REFUSED[name][1]:
        assert word.format(**directories) in err


def test_refused_directories_are_untouched(results, directories):
    """Nothing was written beside what was there, and nothing at all for `--print_config`."""
    assert [p.name for p in directories["foreign"].iterdir()] == ["thesis.tex"]
    assert [p.name for p in directories["claimed"].iterdir()] == ["config.json"]
    assert json.loads((directories["claimed"] / "config.json").read_text())["seed"] == 0
    assert results["nowhere"][0] == 0 and not directories["untouched"].exists()


@pytest.mark.parametrize("name, experts, modes", [
    ("toy", 8, 8), ("modes", 5, 5), ("experts", 16, 8), ("both", 16, 5), ("paper", 8, 5)])
def test_print_config_prints_the_resolved_configuration(results, name, experts, modes):
    """As JSON that reads back; the toy's experts follow its modes unless they are set."""
    code, out, _ = results[name]
    assert code == 0
    config = config_lib.from_json(out)
    assert (config.student.num_experts, config.task.num_modes) == (experts, modes)


def test_keys_of_the_command_line_arrive(results):
    """Integers, words, floats and tuples; an integer where a float is meant."""
    config = config_lib.from_json(results["both"][1])
    assert (config.seed, config.student.gating, config.task.radius, config.task.mode_std,
            config.task.observation_dim) == (3, "uniform", 3.0, 0.15, 2)
    assert config.task.mode_weights == (0.2,) * 5


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run from the command line, started elsewhere, without a workdir."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        [sys.executable, "-m", "vdd_jax.main", f"--config={ROOT}/configs/toy.py:smoke"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "toy_smoke", done.stdout, done.stderr


def test_a_run_from_the_command_line(smoke):
    """The opening block, a line per interval, the table, and nothing to worry about on stderr."""
    workdir, out, err = smoke
    for start in ("task  ", "devices  ", "student  ", "parameters  ", "batch  ", "iterations  "):
        assert sum(line.startswith(start) for line in out.splitlines()) == 1
    assert "[distill] 10/20  " in out and "[distill] 20/20  " in out
    student = json.loads((workdir / "report.json").read_text())["student"]
    rows = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert rows["KL(teacher‖student)"].startswith(f"{student['kl_teacher_student']:.4f} ±")
    assert rows["KL(student‖teacher)"].startswith(f"{student['kl_student_teacher']:.4f} ±")
    assert rows["modes found"] == f"{student['modes_found']} of 8"
    assert rows["network calls per action"] == "1"
    assert "Traceback" not in err and "WARNING" not in err


def test_what_a_run_writes(smoke):
    """Under the default workdir: metrics that parse, figures that open, a policy that acts."""
    workdir, out, _ = smoke
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [("distill", 10), ("distill", 20)]
    for name in ("experts.png", "curves.png"):
        assert min(imread(workdir / "figures" / name).shape[:2]) > 100
        assert f"figure   runs/toy_smoke/figures/{name}" in out
    from vdd_jax import policy

    assert policy.load(workdir).observation_dim == 0


@pytest.mark.parametrize("error", [
    config_lib.ConfigError("words"), stages.WorkdirError("words"), CheckpointError("words"),
    TrainingDiverged("words"), PermissionError("words"),
])
def test_what_goes_wrong_while_running_is_one_message(monkeypatch, capsys, error):
    """NaN, a damaged checkpoint, a full disk: the text on stderr and exit status 1."""
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(main.app, "run", fail)
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: words\n"


def test_interrupted_from_the_keyboard(monkeypatch, capsys):
    """Says how to go on; exit status 130, as shells have it."""
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.app, "run", interrupt)
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch):
    """Only what a user can mend becomes a message; a mistake in the code keeps its traceback."""
    def bug(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(main.app, "run", bug)
    with pytest.raises(ZeroDivisionError):
        main.main()
