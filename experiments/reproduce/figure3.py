"""Figure 3: number of experts, gating, noise levels and bound, one of them changed at a time.

Around the recommended settings, and for noise and bound also around distillation by its bounds
alone. All with the teacher of the vdd run of the same seed.
"""

from typing import NamedTuple

import measures
import plot
import render
import runs as runs_lib
from options import finish, parse
from runs import Run
from tasks import DISTIL_ANEW, PRINTED

BASES = {
    "recommended": (),
    "bounds alone": ("--config.distill.warm_start=0.0", "--config.distill.likelihood_weight=0.0"),
}
NOISE = "--config.distill.noise."
ABLATIONS = {  # name → title, bars: label → the keys that differ from the base
    "experts": ("number of experts", {
        str(n): (f"--config.student.num_experts={n}",) for n in (1, 2, 4, 8, 16)}),
    "noise": ("noise level σ/α", {
        "only 0.1": (f"{NOISE}kind=fixed", f"{NOISE}high=0.1", f"{NOISE}low=0.1"),
        "interval 0.2-0.5": (f"{NOISE}kind=uniform", f"{NOISE}high=0.5", f"{NOISE}low=0.2"),
        "interval whole": (f"{NOISE}kind=uniform",),
        "annealed": (f"{NOISE}kind=annealed",)}),
    "bound": ("bound", {
        kind: (f"--config.distill.bound={kind}",) for kind in ("published", "scaled", "diffused")}),
    "gating": ("gating", {
        kind: (f"--config.student.gating={kind}",) for kind in ("learned", "uniform")}),
}
ON_BOUNDS = ("noise", "bound")  # what is also changed around distillation by bounds alone
SHOWN = ("success", "entropy", "sliced_wasserstein_by_floor", "std_ratio", "nll_held_out")
EXPLAINED = (
    "Noise: one level of 0.1; uniform in 0.2 to 0.5, published for Avoiding with BESO; uniform in "
    "the whole range of the base; annealed through that range. `scaled` is left out for VE "
    "teachers (BESO), where α = 1 and it is the same as `published`.")


class Bar(NamedTuple):
    is_base: bool
    runs: list[Run]  # by seed


class Panel(NamedTuple):
    title: str
    bars: dict[str, Bar]


def panels(asked, task: str, family: str) -> list[Panel]:
    """The ablations of one task and teacher."""
    one_and_the_same = _recommended(asked, task, family).teacher.schedule == "ve"
    found = []
    for base in BASES:
        for name in asked.ablations:
            if base == "recommended" or name in ON_BOUNDS:
                title, bars = ABLATIONS[name]
                found.append(Panel(f"{title} ({base})", {
                    label: _bar(asked, task, family, base, f"{name} {label}", keys)
                    for label, keys in bars.items()
                    if not (label == "scaled" and one_and_the_same)}))
    return found


def _bar(asked, task, family, base, name, keys) -> Bar:
    """A bar that changes nothing is the base's own run."""
    found = []
    for seed in asked.seeds:
        vdd = Run(task, asked.variant, family, seed)
        run = vdd if not BASES[base] else vdd._replace(
            method=_method(base), overrides=(DISTIL_ANEW, *BASES[base]))
        changed = vdd._replace(method=_method(base * bool(BASES[base]), name),
                               overrides=(DISTIL_ANEW, *BASES[base], *keys))
        is_base = _configuration(asked, run) == _configuration(asked, changed)
        found.append(run if is_base else changed)
    return Bar(is_base, found)


def _method(*names: str) -> str:
    return "_".join(" ".join(names).split())


def _configuration(asked, run: Run) -> dict:
    """All that decides a student, but its teacher."""
    config = runs_lib.configuration(runs_lib.arguments(run, asked.place)).to_dict()
    return {**config, "stages": None, "teacher": None}


def _recommended(asked, task: str, family: str):
    return runs_lib.configuration(
        runs_lib.arguments(Run(task, asked.variant, family, asked.seeds[0]), asked.place))


def settings(asked, task: str, family: str) -> str:
    """The bases, in words."""
    config = _recommended(asked, task, family)
    student, distill = config.student, config.distill
    return (f"Recommended: {student.num_experts} experts, {student.gating} gating, noise "
            f"{distill.noise.kind} between {distill.noise.high:g} and {distill.noise.low:g}, "
            f"bound {distill.bound}, a warm start by likelihood for {distill.warm_start:.0%} of "
            f"the iterations, then bounds with the likelihood of weight "
            f"{distill.likelihood_weight:g} beside them. Bounds alone: the same with neither warm "
            "start nor likelihood. One thing at a time differs from the base, which is bold.")


def main(argv: list[str]) -> None:
    asked = parse("figure3", __doc__, argv, ablations=ABLATIONS, families=("beso",))
    drawn = {(task, family): panels(asked, task, family)
             for task in asked.tasks for family in asked.families}
    teachers = [Run(task, asked.variant, family, seed)
                for task, family in drawn for seed in asked.seeds]
    students = [run for of in drawn.values() for panel in of
                for bar in panel.bars.values() for run in bar.runs]
    needed = list(dict.fromkeys(teachers + students))
    if not asked.render:
        runs_lib.make(needed, asked.place)
    reports = {run: report for run in needed if (report := runs_lib.read(run, asked.place))}
    parts, record = ["# Figure 3: what changes with a setting"], {}
    for (task, family), of in drawn.items():
        name = f"{asked.name}_{task}_{family}.png"
        cells = {panel.title: {
            label: {"base": bar.is_base, **measures.of_actor(
                [reports[run] for run in bar.runs if run in reports], lambda r: r["student"])}
            for label, bar in panel.bars.items()} for panel in of}
        record[f"{task}, {family}"] = cells
        parts += [f"## {task}, {family} teacher", settings(asked, task, family)]
        if why := plot.bars(cells, f"{task}, {family} teacher", asked.out / name):
            parts.append(why)
        else:
            parts.append(f"![{task}, {family} teacher]({name})")
        parts += _tables(cells, PRINTED.get(task, ()))
    said = ["mean ± standard deviation over seeds (number of seeds). " + measures.EXPLAINED,
            EXPLAINED, *render.notes(asked, needed, list(reports.values()))]
    render.write(asked.out, asked.name, parts, said, {"seeds": asked.seeds, "ablations": record})


def _tables(cells: dict, more) -> list[str]:
    """One a panel; `more`: measures that the task alone has."""
    names = (*SHOWN[:1], *more, *SHOWN[1:])
    labels = [measures.MEASURES[name].label for name in names]
    return [render.table([title, *labels], (
        [f"**{label}**" if bar["base"] else label, *(measures.shown(bar, n) for n in names)]
        for label, bar in bars.items())) for title, bars in cells.items()]


if __name__ == "__main__":
    finish(main)
