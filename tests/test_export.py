"""Exported students: the same mixture in every format, files that stand alone, refusals."""

import importlib.util
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import students
from contexts import randomised

from vdd_jax import export, export_onnx, export_parity, numpy_policy
from vdd_jax.core import gaussian
from vdd_jax.data import HIDDEN
from vdd_jax.policy import History, Policy, load
from vdd_jax.sampled_policy import SampledPolicy

pytest_plugins = "smoke_run"

CONFIGS = students.configs()
FORMATS = list(export.FORMATS)


@pytest.fixture(scope="module")
def made():
    """The student of a name."""
    found = {}

    def of(name: str) -> Policy:
        if name not in found:
            found[name] = students.student(CONFIGS[name])
        return found[name]

    return of


@pytest.fixture(scope="module")
def expected(made):
    """Four random inputs of the student of a name, and `policy.mixture` of them."""
    found = {}

    def of(name: str):
        if name not in found:
            policy = made(name)
            given = export_parity.random_inputs(policy, 4, 0)
            q = policy.mixture(history_of(policy, given))
            tril = q.scale_tril if q.scale_tril.ndim > q.means.ndim else (
                q.scale_tril[..., None] * np.eye(q.means.shape[-1]))
            found[name] = given, dict(zip(export.OUTPUTS, (q.log_weights, q.means, tril),
                                          strict=True))
        return found[name]

    return of


def history_of(policy, given: dict, kind=History):
    if not policy.window:
        return given["observation"]
    return kind(given["observations"], given["valid"], goal=given.get("goal"))


def needs(form: str) -> None:
    for package in export.FORMATS[form].needs:
        pytest.importorskip(package)


def check(policy, call, given, expected):
    """All four inputs at once, and the first alone."""
    for rows in (slice(None), slice(1)):
        ours = {k: v[rows] for k, v in expected.items()}
        found = call({k: v[rows] for k, v in given.items()})
        for relative, _ in export_parity.differences(policy, ours, found).values():
            assert relative <= 1e-5


@pytest.mark.parametrize("form, name", [
    *((form, name) for name in CONFIGS for form in ("onnx", "numpy")),
    *(("stablehlo", name) for name in ("toy", "windows", "transformer"))])
def test_every_format_is_the_policy(made, expected, tmp_path, form, name):
    """Log weights, means and factors, of batches of one and several, for every kind of student."""
    needs(form)
    file = tmp_path / "file"
    export.FORMATS[form].write(made(name), file)
    check(made(name), export.FORMATS[form].read(file), *expected(name))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["windows", "transformer"])
def test_angles_in_place_of_tangents(made, tmp_path, form, name):
    """The newest observation, steps and goals, where a number is tan of an angle."""
    needs(form)
    policy = made(name)
    tangents = jnp.zeros(policy.observation_dim).at[0].set(1.0)
    other = policy.replace(scaler=policy.scaler._replace(tangents=tangents))
    given = export_parity.random_inputs(other, 4, 0)
    given["observations"][..., 0] *= 30.0
    function = export.function_of(other)
    export.FORMATS[form].write(other, tmp_path / "file")
    expected = function(**given)
    assert jnp.abs(expected["means"] - export.function_of(policy)(**given)["means"]).max() > 1e-3
    check(other, export.FORMATS[form].read(tmp_path / "file"), given, expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["windows", "transformer"])
def test_a_hidden_number_stays_hidden(made, tmp_path, form, name):
    """A file is told it as any other, and whatever it is, says the same."""
    needs(form)
    policy = made(name)
    hide = [getattr(policy.scaler, n).at[0].set(HIDDEN) for n in ("observation_std", "step_std")]
    other = policy.replace(scaler=policy.scaler._replace(observation_std=hide[0],
                                                         step_std=hide[1]))
    given = export_parity.random_inputs(policy, 4, 0)
    export.FORMATS[form].write(other, tmp_path / "file")
    expected = export.function_of(other)(**given)
    read = export.FORMATS[form].read(tmp_path / "file")
    check(other, read, given, expected)
    given["observations"][..., 0] += 1000 * np.arange(given["observations"].shape[1])
    check(other, read, given, expected)
    shown = export.function_of(policy)(**given)["means"]
    assert jnp.abs(expected["means"] - shown).max() > 1e-3


@pytest.mark.parametrize("form", ["onnx", "numpy"])
def test_covariances_of_long_chunks(made, tmp_path, monkeypatch, form):
    """Past the size up to which Gram-Schmidt is written out, JAX decomposes by QR."""
    needs(form)
    monkeypatch.setattr(gaussian, "_UNROLL", 1)
    policy = made("toy")
    given = export_parity.random_inputs(policy, 4, 0)
    function = export.function_of(policy)
    assert " qr[" in str(jax.make_jaxpr(lambda: function(**given))())
    export.FORMATS[form].write(policy, tmp_path / "file")
    check(policy, export.FORMATS[form].read(tmp_path / "file"), given, function(**given))


def test_random_inputs_hold_starts_of_episodes(made):
    """Some windows whole, some not; what was not made repeats the first that was."""
    given = export_parity.random_inputs(made("windows"), 64, 0)
    valid, seen = given["valid"], given["observations"]
    whole = valid.all(1)
    assert 0 < whole.sum() < 64 and valid[:, -1].all()
    for row, made_there in zip(seen[~whole], valid[~whole], strict=True):
        first = made_there.argmax()
        assert (row[:first] == row[first]).all() and (row[first:-1] != row[first + 1:]).all()


def test_visited_inputs_are_windows_of_the_episodes(made, tmp_path):
    """Of the student's own episodes, steps that were made alone; at a start as `History` says. Not
    where an episode was lost, and none of a damaged file."""
    policy, file = made("windows"), tmp_path / "episodes.npz"
    mean, std = policy.scaler.observation_mean, policy.scaler.observation_std
    t, o, length = policy.window, policy.observation_dim, 7
    number = np.arange(3 * length).reshape(3, length, 1)  # tells which step of which episode
    seen = np.asarray(mean + std * number / 10, np.float32)
    mask = np.arange(length) < np.array([[7], [3], [0]])

    def save(observations, of=policy.acting):
        np.savez(file, **{f"{of}.observations": observations, f"{of}.mask": mask})

    def drawn(of=policy):
        given = export_parity.visited_inputs(of, file, 400, 0)
        return given and (given, np.rint((given["observations"] - mean) / std * 10)[..., 0])

    assert drawn() is None
    save(seen, "teacher")
    assert drawn() is None
    save(seen)
    given, numbers = drawn()
    assert given["observations"].shape == (400, t, o) and given["observations"].dtype == np.float32
    newest = numbers[:, -1]
    assert set(newest) == {*range(7), *range(7, 10)}
    first = np.where(newest < 7, 0, 7)[:, None]
    ago = np.arange(t)[::-1]
    assert (numbers == np.maximum(newest[:, None] - ago, first)).all()
    assert (given["valid"] == (newest[:, None] - ago >= first)).all()
    for other in (policy.replace(observation_dim=o + 1), made("transformer"), made("toy")):
        assert drawn(other) is None  # another size, a goal, no window
    lost = seen.copy()
    lost[0, 2, 0], lost[0, 6, -1] = np.nan, 1e30
    save(lost)
    given, numbers = drawn()
    assert np.isfinite(given["observations"]).all() and given["observations"].max() < 1e30
    assert set(numbers[:, -1]) == {0, 1, *range(2 + t, 6), *range(7, 10)}
    save(np.full_like(seen, np.nan))
    assert drawn() is None
    save(seen)
    file.write_bytes(file.read_bytes()[:-60])
    assert drawn() is None


def test_a_run_is_exported_by_the_command(finished_avoiding, tmp_path, capsys):
    """It says what the inputs are and how exact the file is, and writes no file twice."""
    for form in FORMATS:
        needs(form)
        out = tmp_path / form / "policy"
        arguments = [f"--workdir={finished_avoiding.workdir}", f"--format={form}", f"--out={out}"]
        export.main(arguments)
        printed = capsys.readouterr().out
        assert f"wrote {out}" in printed
        assert "inputs: observations [B, 2, 4], valid [B, 2]" in printed
        for inputs in ("random inputs", "inputs of the report's episodes"):
            assert f"{inputs}, one and 256 at once:\n" in printed
        for name in export_parity.COMPARED:
            assert printed.count(f"  {name}: largest difference from the policy ") == 2
        before = {file: file.read_bytes() for file in out.parent.iterdir()}
        assert len(before) == 1 + (form == "numpy")
        with pytest.raises(SystemExit) as stopped:
            export.main(arguments)
        assert stopped.value.code == 1
        assert capsys.readouterr().err == f"error: {out} is there already; nothing was written\n"
        assert before == {file: file.read_bytes() for file in out.parent.iterdir()}


def test_a_file_without_a_name_is_put_into_the_workdir(finished_avoiding, tmp_path, capsys):
    """By the name that the format has in the documentation."""
    shutil.copytree(finished_avoiding.workdir, tmp_path / "run")
    before = {*(tmp_path / "run").iterdir()}
    export.main([f"--workdir={tmp_path / 'run'}", "--format=numpy"])
    new = {path.name for path in {*(tmp_path / "run").iterdir()} - before}
    assert new == {"policy.npz", "numpy_policy.py"}
    assert f"wrote {tmp_path / 'run' / 'policy.npz'}" in capsys.readouterr().out
    assert {f.name for f in export.FORMATS.values()} == {
        "policy.npz", "policy.onnx", "policy.stablehlo"}


def test_who_acts_on_the_mixture_is_told_how(finished_avoiding, tmp_path, capsys, monkeypatch):
    """A file that gives the mixture alone cannot act by itself."""
    needs("stablehlo")
    load, said = export.policy_lib.load, []
    for changes in (dict(acting="sampled_mean", min_weight=0.0), dict(min_weight=0.1),
                    dict(acting="sample", min_weight=0.0)):
        monkeypatch.setattr(export.policy_lib, "load",
                            lambda workdir, changes=changes: load(workdir).replace(**changes))
        export.main([f"--workdir={finished_avoiding.workdir}", "--format=stablehlo",
                     f"--out={tmp_path / str(len(said))}"])
        said.append([line for line in capsys.readouterr().out.splitlines()
                     if line.startswith("this policy acts ")])
    assert said == [
        [], ["this policy acts by experts of weight 0.1 and more (config.policy.min_weight)"],
        ["this policy acts by samples of the mixture (config.policy.acting)"]]


def test_the_artefact_runs_on_every_platform_at_any_batch(finished_avoiding, tmp_path):
    """As the documentation says it is loaded: JAX alone."""
    needs("stablehlo")
    file = tmp_path / "policy.stablehlo"
    export.run(finished_avoiding.workdir, "stablehlo", file)
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    observations = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    q = jax.jit(exported.call)(observations=observations, valid=np.ones((3, 2), bool))
    expected = load(finished_avoiding.workdir).mixture(observations)
    np.testing.assert_allclose(q["means"], expected.means, rtol=1e-5, atol=1e-7)
    with pytest.raises(Exception, match="observations|keyword|structure"):
        exported.call(observation=observations, valid=np.ones((3, 2), bool))


def test_a_file_that_is_not_the_policy_is_not_kept(finished_avoiding, tmp_path, monkeypatch):
    """Neither a wrong number nor NaN nor a wrong shape gets through."""
    wrong = {"off": lambda v: v + 3e-5 * np.abs(v).max(), "nan": lambda v: v * np.nan}
    read = export.FORMATS["numpy"].read
    for name in export.OUTPUTS:
        for change in wrong.values():
            def broken(file, name=name, change=change):
                call = read(file)
                return lambda given: {k: change(v) if k == name else v
                                      for k, v in call(given).items()}

            monkeypatch.setitem(export.FORMATS, "numpy",
                                export.FORMATS["numpy"]._replace(read=broken))
            with pytest.raises(export.ExportError, match=f"{name} of the file differs .* 1.0e-05"):
                export.run(finished_avoiding.workdir, "numpy", tmp_path / "policy.npz")
    assert not list(tmp_path.iterdir())


def test_what_a_file_does_not_give_does_not_refuse_it(finished_avoiding, tmp_path, monkeypatch):
    """A factor that may be off makes a covariance that is off by twice as much."""
    exact, off = (export_parity.Found(v, v, v, 0.0) for v in (0.0, 2e-4))
    monkeypatch.setattr(export.parity, "compare", lambda *_: {
        name: exact if name in export.OUTPUTS else off for name in export_parity.COMPARED})
    said = export.run(finished_avoiding.workdir, "numpy", tmp_path / "policy.npz")
    assert said.count("covariances: largest difference from the policy 2.0e-04") == 2


@pytest.fixture(scope="module")
def sharp(made):
    """A student with large weights, as training makes them where one mode borders on another."""
    policy = made("windows")
    return policy.replace(params=jax.tree.map(lambda v: 3 * v, policy.params))


def test_the_reference_is_the_policy_in_float64(made):
    """Nearer to it than 1e-5, and itself hardly moved by 1e-12 of the input."""
    for name in ("toy", "windows", "transformer"):
        policy = made(name)
        given = export_parity.random_inputs(policy, 4, 0)
        exact = export_parity.in_float64(policy)
        found, moved = exact(given), exact({
            k: v if v.dtype == bool else v * (1 + 1e-12) for k, v in given.items()})
        assert {v.dtype for v in found.values()} == {np.dtype(np.float64)}
        ours = jax.jit(export.function_of(policy))(**given)
        for of, most in ((ours, 1e-5), (moved, 1e-9)):
            for key, (relative, _) in export_parity.differences(policy, found, of).items():
                assert relative <= most, (name, key)
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_sharp_students_are_as_exact_as_the_policy(sharp, tmp_path, form):
    """Where float32 itself is off by more than 1e-5, a file may differ as much as that explains."""
    needs(form)
    export.FORMATS[form].write(sharp, tmp_path / "file")
    call = export.FORMATS[form].read(tmp_path / "file")
    given = export_parity.random_inputs(sharp, 256, 1)
    for found in export_parity.compare(sharp, call, [given]).values():
        assert found.relative <= export_parity.limit(found)
        assert found.relative <= found.file + found.policy


def test_how_much_a_file_may_differ():
    """1e-5; more where the policy's own rounding is more; never more than 1e-4."""
    for own, expected in ((0.0, 1e-5), (1e-6, 1e-5), (1e-5, 5e-5), (1e-3, 1e-4)):
        found = export_parity.Found(0.0, 0.0, 0.0, own)
        assert export_parity.limit(found) == pytest.approx(expected)


def test_what_lies_beside_is_not_overwritten(finished_avoiding, tmp_path):
    """Another numpy_policy.py is left alone; the same one is shared."""
    (tmp_path / "numpy_policy.py").write_text("mine")
    with pytest.raises(export.ExportError, match="numpy_policy.py is there already and is not"):
        export.run(finished_avoiding.workdir, "numpy", tmp_path / "policy.npz")
    assert [f.name for f in tmp_path.iterdir()] == ["numpy_policy.py"]
    (tmp_path / "numpy_policy.py").unlink()
    for name in ("a.npz", "b.npz"):
        export.run(finished_avoiding.workdir, "numpy", tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
def test_a_missing_extra_is_named(finished_avoiding, tmp_path, monkeypatch, capsys, form):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        export.main([f"--workdir={finished_avoiding.workdir}", f"--format={form}",
                     f"--out={tmp_path / 'policy'}"])
    assert capsys.readouterr().err == (
        f"error: --format={form} needs {export.FORMATS[form].needs[0]}, which is not installed; it "
        "comes with the export extra: pip install 'vdd_jax[export]'\n")


@pytest.mark.parametrize("arguments, words", [
    (["--format=numpy"], "holds no student; run python -m vdd_jax.main"),
    (["--format=tflite"], "invalid choice: 'tflite'"),
    ([], "arguments are required: --format"),
])
def test_other_mistakes_are_one_sentence(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit):
        export.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'policy'}", *arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_cannot_lie_in_a_file(tmp_path):
    """Told before the student is read."""
    (tmp_path / "file").touch()
    with pytest.raises(export.ExportError, match="file is a file, not a directory; nothing was"):
        export.run(tmp_path, "numpy", tmp_path / "file" / "policy.npz")


def test_policies_without_a_mixture_are_refused(made):
    policy = made("toy")
    sampled = SampledPolicy(policy.params, policy.scaler, None, None, "consistency model (cd)",
                            1, 2, 1)
    with pytest.raises(export.ExportError, match="cd.*without a mixture cannot be exported"):
        export.exportable(sampled)


def test_students_of_bfloat16_are_exported_in_float32(made):
    """The same parameters, layers that compute in float32."""
    policy = made("windows")
    half = policy.apply.__self__.clone(dtype=jnp.bfloat16)
    found = export.exportable(policy.replace(apply=half.apply, apply_one=half.apply_one))
    assert found.apply.__self__ == policy.apply.__self__ != half


# ---- ONNX beyond students

def onnx_of(function, **inputs):
    """Outputs of `function(**inputs) → dict` through ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = export_onnx.lower(function, {k: (v.shape[1:], v.dtype) for k, v in inputs.items()})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_rules_that_hardly_show_in_students():
    """Products with batch axes and several rows, columns, contracted axes; strides; indices out of
    order; writing; splits and stacks; small arguments of log1p."""
    x, kernel = (randomised(np.empty(s, np.float32)) for s in ((2, 3, 4), (3, 4, 5, 2)))
    y = randomised(np.empty((2, 3, 4), np.float32), seed=2)

    def function(x, y):
        first, second = jnp.split(x, 2, axis=2)
        return {
            "contracted": jnp.einsum("bij,ijkl->blk", x, kernel),
            "batched": jnp.einsum("bij,bkj->bki", x, y),
            "outer": jnp.einsum("bi,bj->bij", x[:, 0], y[:, 1]),
            "indexed": x[:, jnp.array([2, 0]), jnp.array([1, 3])],
            "strided": x[:, ::2, 1:4:2],
            "written": x.at[:, jnp.array([0, 2]), 1].set(y[:, :2, 0]),
            "stacked": jnp.stack([first, second], axis=1).sum((1, 3)),
            "chosen": jnp.where((x > y) & ~(x > 0.5) | (y != y[:, :1]), x**3, -y).max(1),
            "log1p": jnp.log1p(1e-6 * x * x),
        }

    found = onnx_of(function, x=np.asarray(x), y=np.asarray(y))
    for name, expected in function(x, y).items():
        tolerance = {"rtol": 1e-5, "atol": 0 if name == "log1p" else 1e-6}
        np.testing.assert_allclose(found[name], expected, err_msg=name, **tolerance)


@pytest.mark.parametrize("function, words", [
    (lambda x: {"y": jnp.sort(x, axis=1)}, "primitive 'sort' cannot be written as ONNX"),
    (lambda x: {"y": x.reshape(-1)}, r"an axis of size 3\*b: only the batch"),
])
def test_what_onnx_cannot_say_is_named(function, words):
    with pytest.raises(export_onnx.NotLowered, match=words):
        onnx_of(function, x=np.ones((2, 3), np.float32))


def test_exports_need_neither_jax_nor_this_library(finished_avoiding, tmp_path):
    """The NumPy policy acts in a process where neither can be imported."""
    export.run(finished_avoiding.workdir, "numpy", tmp_path / "policy.npz")
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('jax', 'vdd_jax', 'flax'), None))\n"
        "import numpy\nfrom numpy_policy import load\n"
        "policy = load('policy.npz')\n"
        "print(policy.act(numpy.zeros((2, 4)), numpy.random.default_rng(0)).shape)\n")
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True,
                           capture_output=True, env={"PYTHONPATH": ""})
    assert found.stdout == "(2,)\n", found.stderr
    assert (tmp_path / "numpy_policy.py").read_bytes() == open(
        numpy_policy.__file__, "rb").read()
