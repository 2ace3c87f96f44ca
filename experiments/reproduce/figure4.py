"""Figure 4: the ways that teachers and students drive, the students' coloured by expert.

Those that the evaluation of the vdd runs drew; drawn anew where they are missing.
"""

import shutil
from pathlib import Path

import render
import runs as runs_lib
from options import finish, parse
from runs import Run

from vdd_jax import config as config_lib

SEEN = ("Left to right: teacher, teacher with the fewest steps, student. The first two are "
        "coloured by mode (the side on which each row of cylinders is passed), the student by its "
        "likeliest expert, more opaque the larger that expert's gating weight. Crosses: where "
        "failed episodes ended.")


def picture(workdir: Path) -> str | None:
    """Makes sure that `workdir/figures/trajectories.png` is there; returns why it is not."""
    drawn = workdir / "figures" / "trajectories.png"
    if drawn.exists():
        return None
    try:
        from vdd_jax import figures
    except ModuleNotFoundError as error:
        return f"not drawn: {error.name} is missing; pip install 'vdd_jax[plot]'"
    figures.draw(config_lib.from_json((workdir / "config.json").read_text()), workdir)
    return None if drawn.exists() else "not drawn: the run has kept no episodes"


def main(argv: list[str]) -> None:
    asked = parse("figure4", __doc__, argv)
    needed = [Run(task, asked.variant, family, seed)
              for task in asked.tasks for family in asked.families for seed in asked.seeds]
    if not asked.render:
        runs_lib.make(needed, asked.place)
    reports = {run: report for run in needed if (report := runs_lib.read(run, asked.place))}
    asked.out.mkdir(parents=True, exist_ok=True)
    parts, record = ["# Figure 4: trajectories by expert", SEEN], {}
    for run in needed:
        name = f"{asked.name}_{run.task}_{run.family}_seed{run.seed}.png"
        parts.append(f"## {run.task}, {run.family} teacher, seed {run.seed}")
        if run not in reports:
            parts.append("–")
            continue
        workdir, student = asked.place.workdir(run), reports[run]["student"]
        record[name] = {key: student[key] for key in ("success", "entropy", "modes_found")}
        parts.append(f"Student: success {student['success']:.3f}, entropy "
                     f"{student['entropy']:.3f}, {student['modes_found']} modes; the lines are "
                     "its first episodes.")
        if why := picture(workdir):
            parts.append(why)
        else:
            shutil.copyfile(workdir / "figures" / "trajectories.png", asked.out / name)
            parts.append(f"![{run.task}, {run.family}, seed {run.seed}]({name})")
    render.write(asked.out, asked.name, parts,
                 render.notes(asked, needed, list(reports.values())), {"figures": record})


if __name__ == "__main__":
    finish(main)
