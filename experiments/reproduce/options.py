"""The command line that tables and figures share."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from runs import ROOT, Failed, Place
from tasks import FAMILIES, TASKS

TASK = "avoiding"  # unless others are asked for
HELP = {
    "tasks": f"which, by comma, of {', '.join(TASKS)}; {TASK} by default",
    "variant": "of the configurations, e.g. recorded",
    "smoke": "the variant smoke: minutes, numbers that mean nothing",
    "seeds": "of training and evaluation",
    "families": "of teachers",
    "runs": "where runs are made, and found again",
    "out": "where tables and figures are written",
    "existing": "[FAMILY=]PATTERN: take the vdd runs from there, e.g. beso=/some/where/run_{seed} "
                "({task} and {family} are put in too)",
    "render": "run nothing, show what is there",
}


def parse(name: str, about: str, argv, **choices) -> argparse.Namespace:
    """The options of table or figure `name`, checked.

    Args:
      choices: further options, each with what may be in it, all by default.

    Returns:
      The options, lists as tuples; beside them `place`, `name` (with the variant) and `command`.
    """
    parser = argparse.ArgumentParser(
        prog=f"{name}.sh", description=about, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What follows -- goes to vdd_jax.main in every run: -- --config.key=value …")
    families = choices.pop("families", FAMILIES)
    add = parser.add_argument
    for option, possible in choices.items():
        add(f"--{option}", default=",".join(possible), help=HELP.get(option, "which, by comma"))
    add("--tasks", default=TASK, help=HELP["tasks"])
    add("--families", default=",".join(families), help=HELP["families"])
    add("--variant", default="", help=HELP["variant"])
    add("--smoke", action="store_const", const="smoke", dest="variant", help=HELP["smoke"])
    add("--seeds", default="0,1,2", help=HELP["seeds"])
    add("--runs", default=ROOT / "runs" / "reproduce", type=Path, help=HELP["runs"])
    add("--out", default=ROOT / "experiments" / "results", type=Path, help=HELP["out"])
    add("--existing", action="append", default=[], help=HELP["existing"])
    add("--render", action="store_true", help=HELP["render"])
    add("rest", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    for option, possible in {**choices, "families": FAMILIES, "tasks": TASKS}.items():
        setattr(asked, option, _chosen(parser, option, getattr(asked, option), possible))
    try:
        asked.seeds = tuple(int(seed) for seed in asked.seeds.split(","))
    except ValueError:
        parser.error(f"--seeds is {asked.seeds!r}; it should be integers, by comma")
    for task in asked.tasks:
        if asked.variant not in TASKS[task]:
            known = ", ".join(filter(None, TASKS[task]))
            parser.error(f"{task} has the variants {known}, not {asked.variant!r}")
    for argument in asked.rest:
        if not argument.startswith("--config."):
            parser.error(f"unexpected {argument!r}; after -- there are --config.key=value")
    if asked.variant == "recorded" and not any("demonstrations=" in a for a in asked.rest):
        parser.error("the variant recorded needs -- --config.task.demonstrations=DIR")
    existing = _patterns(parser, asked.existing)
    asked.place = Place(asked.runs, existing, tuple(asked.rest))
    asked.name = f"{name}_{asked.variant}" if asked.variant else name
    asked.command = command(name, argv)
    return asked


def _chosen(parser, option: str, given: str, possible) -> tuple[str, ...]:
    chosen = tuple(given.split(","))
    for value in chosen:
        if value not in possible:
            parser.error(f"--{option} has {value!r}; there are {', '.join(possible)}")
    return chosen


def _patterns(parser, given: list[str]) -> dict[str, str]:
    patterns = {}
    for pattern in given:
        family, _, rest = pattern.partition("=")
        named = {family: rest} if family in FAMILIES else dict.fromkeys(FAMILIES, pattern)
        try:
            pattern.format(task="", family="", seed=0)
        except (KeyError, IndexError, ValueError) as error:
            parser.error(f"--existing={pattern}: only {{task}}, {{family}}, {{seed}} are put in "
                         f"({error})")
        patterns |= named
    return patterns


def command(name: str, argv) -> str:
    """What was typed, without the directories of one machine."""
    return without_paths(" ".join([f"experiments/reproduce/{name}.sh", *argv]))


def without_paths(text: str) -> str:
    """Absolute paths become DIR."""
    return re.sub(r"(?<![\w.}~-])/[^\s,]+", "DIR", text)


def finish(main: Callable[[list[str]], None]) -> None:
    """Runs `main` with the command line; what goes wrong is told in a sentence."""
    try:
        main(sys.argv[1:])
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")
