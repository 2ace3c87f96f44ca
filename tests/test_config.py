"""The configuration: every key is explained and used, and everything wrong is said at once."""

import json
import re
from pathlib import Path

import pytest

import vdd_jax
from vdd_jax import config as config_lib
from vdd_jax.config import KEYS, ConfigError, default, differences, flatten, from_json, to_json
from vdd_jax.config import validate as check
from vdd_jax.config_keys import Key
from vdd_jax.models.backbones import ACTIVATIONS, BACKBONES
from vdd_jax.models.moe import MixtureOfExperts
from vdd_jax.tasks import TASKS


def changed(**values):
    """The defaults with `group__key=value` put in, whatever its type, known or not."""
    config = default()
    for name, value in values.items():
        *groups, leaf = name.split("__")
        node = config
        for group in groups:
            node = node[group]
        with node.unlocked():
            if leaf in node:
                del node[leaf]  # so that nothing is cast
            node[leaf] = value
    return config


def complaints(**values) -> str:
    with pytest.raises(ConfigError) as caught:
        check(changed(**values))
    return str(caught.value)


def test_defaults_hold_every_key_and_are_valid():
    """`default()` has the documented keys, no others, at their documented values."""
    flat = flatten(default())
    assert flat == {name: key.default for name, key in KEYS.items()}
    check(default())


def test_defaults_are_not_shared():
    """Changing one default configuration leaves the next as documented."""
    default().task.radius = 7.0
    assert default().task.radius == KEYS["task.radius"].default


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_explained(name):
    """A key has a meaning, and words for what it may be where that is checked."""
    key = KEYS[name]
    assert len(key.meaning) > 3
    unrestricted = Key(0, "").allowed
    if isinstance(key.allowed, tuple) or key.allowed is not unrestricted:
        assert key.expected


def test_every_key_is_used():
    """No key is dead: the student's are the module's fields, the others are read somewhere."""
    students = {k.removeprefix("student.") for k in KEYS if k.startswith("student.")}
    fields = set(MixtureOfExperts.__dataclass_fields__) - {
        # by the task, for joint distillation, by config.precision
        "parent", "name", "action_dim", "per_step", "dtype"}
    assert students == fields
    root = Path(vdd_jax.__file__).parent
    source = "\n".join(f.read_text() for f in root.rglob("*.py") if f.name != "config_keys.py")
    unread = [k for k in KEYS if not re.search(rf"\.{k.rsplit('.', 1)[-1]}\b", source)]
    assert not unread


def test_choices_are_what_the_library_has():
    """The words a key may take are the names that can be looked up."""
    assert set(KEYS["student.activation"].allowed) == set(ACTIVATIONS)
    assert set(KEYS["student.trunk"].allowed) == {*BACKBONES, "transformer"}
    assert set(KEYS["student.head"].allowed) == set(BACKBONES)
    assert set(KEYS["task.name"].allowed) == set(TASKS)


@pytest.mark.parametrize("name, value", [
    ("seed", -1),
    ("stages", ()),
    ("stages", ("distil",)),
    ("task__name", "toy2d"),
    ("task__num_modes", 0),
    ("task__mode_std", 0.0),
    ("task__radius", float("nan")),
    ("task__radius", float("inf")),
    ("task__mode_weights", (0.9,) + (0.1,) * 7),
    ("task__mode_weights", (1.2, -0.2) + (0.0,) * 6),
    ("task__mode_weights", ("a", "b")),
    ("task__hidden", (2, 2)),
    ("task__hidden", (-1,)),
    ("task__hidden", (True,)),
    ("student__num_experts", 0),
    ("student__covariance", "low_rank"),
    ("student__activation", "elu"),
    ("student__std_floor", -1e-3),
    ("distill__learning_rate", 0.0),
    ("distill__bound", "exact"),
    ("distill__gating_start", 1.5),
    ("distill__noise__kind", "constant"),
    ("distill__noise__anneal_end", 0.0),
    ("distill__noise__steps", ("a",)),
    ("run__log_every", 0),
])
def test_values_out_of_range_are_refused_by_name(name, value):
    """What a key may not be is refused, and the key and what it should be are named."""
    text = complaints(**{name: value})
    dotted = name.replace("__", ".")
    assert text.startswith(f"config.{dotted} is {value!r}; it should be ")
    assert len(text.split("it should be ")[1]) > 3


@pytest.mark.parametrize("name, value", [
    ("seed", 1.0),  # a float for an integer
    ("seed", True),  # True is no number
    ("seed", "1"),
    ("seed", None),
    ("student__num_experts", 8.0),
    ("task__radius", "2"),
    ("task__radius", True),
    ("student__independent", 1),  # 1 is no truth value
    ("student__gating", 3),
    ("stages", "distill"),
    ("task__mode_weights", 1.0),
])
def test_wrong_types_are_refused(name, value):
    """The type of the default is the type of the key."""
    dotted = name.replace("__", ".")
    kind = type(KEYS[dotted].default).__name__
    assert complaints(**{name: value}) == f"config.{dotted} is {value!r}; it should be a {kind}"


def test_integers_are_fine_where_a_float_is_meant():
    """`radius=3` needs no decimal point, and a list is as good as a tuple."""
    check(changed(task__radius=3, student__init_std=1, task__mode_weights=[0.5, 0.5],
                  task__num_modes=2))


def test_a_toy_hides_nothing():
    """And says so, where a key that does nothing would pass unseen."""
    assert complaints(task__hidden=(0,)).startswith("config.task.hidden is given, but toy hides")


def test_all_errors_are_reported_at_once():
    """One line for each of several mistakes, of every sort."""
    config = changed(seed=-1, task__radius="2", task__name="tay", distill__nois=3)
    del config.run["figures"]
    with pytest.raises(ConfigError) as caught:
        check(config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for part in ("config.seed is -1", "config.task.radius is '2'", "config.task.name is 'tay'",
                 "unknown key config.distill.nois", "missing key config.run.figures"):
        assert sum(line.startswith(part) for line in lines) == 1


@pytest.mark.parametrize("wrong, right", [
    ("student.num_expert", "student.num_experts"),
    ("num_experts", "student.num_experts"),
    ("task.gating_learning_rate", "distill.gating_learning_rate"),
    ("sed", "seed"),
])
def test_the_nearest_key_is_named(wrong, right):
    """A slip of the pen, and a key looked for in the wrong group."""
    assert config_lib.did_you_mean(wrong) == f" (did you mean config.{right}?)"


@pytest.mark.parametrize("values, words", [
    (dict(task__mode_weights=(0.5, 0.5)), ("mode_weights has 2", "num_modes is 8")),
    (dict(distill__noise__low=3.0), ("noise.low is above", "noise.high")),
    (dict(distill__noise__kind="discrete"), ("'discrete'", "noise.steps", "empty")),
    (dict(student__independent=True, student__trunk_depth=0, task__observation_dim=2),
     ("student.independent", "trunk_depth is 0")),
    (dict(policy__min_weight=0.2, student__num_experts=5),
     ("policy.min_weight is 0.2", "5 experts", "none might be left")),
    (dict(distill__gating_update="together", distill__gating_steps=2),
     ("one update in an iteration", "gating_steps is 2")),
    (dict(task__name="avoiding", distill__visits=(0.5,), distill__noise__low=0.05),
     ("distill.visits is given", "distill.actions = 'teacher'")),
    (dict(distill__visits=(0.5,)), ("distill.visits is given", "toy has no simulator")),
    (dict(task__name="recorded", task__observation_dim=2, task__action_dim=1,
          distill__actions="teacher", distill__visits=(0.5,), distill__noise__low=0.05),
     ("distill.visits is given", "recorded has no simulator")),
    (dict(task__name="sorting_image", distill__actions="teacher", distill__visits=(0.5,),
          distill__noise__low=0.05), ("distill.visits is given", "with images")),
    (dict(distill__gating_steps=0), ("gating is 'learned'", "gating_steps is 0")),
])
def test_inconsistent_values_are_refused(values, words):
    """Values that are fine alone but not together; both keys are named."""
    text = complaints(**values)
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


def test_several_inconsistencies_are_reported_at_once():
    """Inconsistencies too are collected."""
    text = complaints(task__mode_weights=(0.5, 0.5), distill__noise__low=3.0)
    assert len(text.splitlines()) == 2


def test_json_round_trip():
    """Through JSON and back every value and every type is the same, tuples included."""
    config = changed(task__num_modes=2, task__mode_weights=(0.25, 0.75), seed=3,
                     distill__noise__steps=(1, 2), student__independent=True)
    back = from_json(to_json(config))
    assert flatten(back) == flatten(config)
    assert {k: type(v) for k, v in flatten(back).items()} == {
        k: type(v) for k, v in flatten(config).items()}
    assert isinstance(back.task.mode_weights, tuple)
    assert from_json(json.loads(to_json(config))) == back  # parsed already


def test_json_of_an_older_version_takes_defaults_for_keys_added_since():
    """A missing key is filled in; one that no longer exists is refused by name."""
    stored = json.loads(to_json(changed(seed=5)))
    del stored["student"]["activation"]
    assert flatten(from_json(stored)) == flatten(changed(seed=5))
    stored["student"]["leakage"] = 0.1
    with pytest.raises(ConfigError, match="unknown key config.student.leakage"):
        from_json(stored)


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", '{"seed": "one"}', '{"seed": 1.5}', '{"seed": null}', '{"student": 3}',
    '{"stages": 3}', '{"seed": {"a": 1}}', '{"task": {"radius": -1}}',
])
def test_json_that_is_no_configuration_is_refused(text):
    """Whatever is in the file, the complaint is a ConfigError."""
    with pytest.raises(ConfigError):
        from_json(text)


def test_differences_name_what_changes_results():
    """Both values of every key that differs, but not of how the run is run, nor the stages."""
    a = default()
    b = changed(seed=1, distill__noise__low=0.01, run__log_every=7, stages=("evaluate",),
                evaluate__num_samples=7)
    assert differences(a, a) == []
    assert sorted(differences(a, b)) == ["config.distill.noise.low: 0.005 → 0.01",
                                         "config.seed: 0 → 1"]
    assert differences(changed(task__radius=2), changed(task__radius=2.0)) == []


def test_keys_of_a_rival_count_where_it_is_a_stage():
    """Of either of the two."""
    for stages, count in ((("distill",), 0), (("consistency",), 1)):
        a, b = changed(), changed(consistency__num_iterations=7, stages=stages)
        assert len(differences(a, b)) == len(differences(b, a)) == count


def test_versions_name_the_python_and_jax():
    """The versions that a report carries are those that are installed."""
    import jax

    found = config_lib.versions()
    assert found["jax"] == jax.__version__
    assert re.fullmatch(r"3\.\d+\.\d+", found["python"])
    assert set(found) >= {"vdd_jax", "flax", "optax", "orbax-checkpoint", "numpy"}
