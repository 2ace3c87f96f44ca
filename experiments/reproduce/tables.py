"""Tables 1 and 2: success and entropy of VDD beside its teachers and other methods.

Table 1: diffusion policies, the same with one step, consistency models, VDD. Table 2: mixtures of
experts learned from demonstrations alone, and VDD. Each cell is mean ± standard deviation over
seeds (number of seeds), with what the paper prints below it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measures
import render
import runs as runs_lib
from options import finish, parse
from runs import Run
from tasks import METHODS, PRINTED, VDD

PAPER = json.loads(Path(__file__).with_name("paper.json").read_text())


class Column(NamedTuple):
    title: str
    family: str  # of the teacher
    method: str  # of the run
    actor: Callable[[dict], dict | None]  # report → its part of who is judged


def _teacher(report):
    return report["teacher"]


def _one_step(report):
    return report["few_step_teachers"].get("1")


def _student(report):
    return report["student"]


COLUMNS = {  # the keys are those of paper.json
    "table1": {
        "ddpm": Column("DDPM", "ddpm", VDD, _teacher),
        "beso": Column("BESO", "beso", VDD, _teacher),
        "ddpm_1": Column("DDPM-1", "ddpm", VDD, _one_step),
        "beso_1": Column("BESO-1", "beso", VDD, _one_step),
        "cd": Column("CD", "beso", "cd", _student),
        "ctm": Column("CTM", "beso", "ctm", _student),
        "vdd_ddpm": Column("VDD-DDPM", "ddpm", VDD, _student),
        "vdd_beso": Column("VDD-BESO", "beso", VDD, _student),
    },
    "table2": {
        "em": Column("EM", "beso", "em", _student),
        "imc": Column("IMC", "beso", "imc", _student),
        "bc_gmm": Column("BC-GMM", "beso", "bc_gmm", _student),
        "vdd_beso": Column("VDD", "beso", VDD, _student),
    },
}
TITLES = {
    "table1": "Table 1: VDD beside its teachers and consistency models",
    "table2": "Table 2: VDD beside mixtures of experts learned without a teacher",
}


def runs_of(asked, columns: dict[str, Column]) -> list[Run]:
    """What `columns` need, a teacher before the methods that use it."""
    needed = []
    for task in asked.tasks:
        for seed in asked.seeds:
            first = {Run(task, asked.variant, column.family, seed): None
                     for column in columns.values()}
            then = {Run(task, asked.variant, column.family, seed, column.method,
                        METHODS[column.method]): None
                    for column in columns.values() if column.method != VDD}
            needed += [*first, *then]
    return needed


def printed_names(task: str) -> dict[str, str]:
    """Measure → what `paper.json` calls it."""
    return PRINTED.get(task, {"success": task})


def collect(asked, columns: dict[str, Column], reports: dict[Run, dict]) -> dict:
    """Task → column → what `measures.of_actor` says, with `paper`: measure → what it prints."""
    found = {}
    for task in asked.tasks:
        found[task] = {}
        for key, column in columns.items():
            mine = [report for run, report in reports.items()
                    if (run.task, run.family, run.method) == (task, column.family, column.method)]
            printed = PAPER[asked.table].get(key, {})
            found[task][key] = {
                "title": column.title, **measures.of_actor(mine, column.actor),
                "paper": {name: printed[called] for name, called in printed_names(task).items()
                          if called in printed}}
    return found


def markdown(asked, columns: dict[str, Column], found: dict) -> list[str]:
    """The table in its parts."""
    header = ["", *(column.title for column in columns.values())]
    parts = [f"# {TITLES[asked.table]}"]
    for letter, (first, of) in zip("ab", measures.CLOSED_LOOP.items(), strict=True):
        rows = [row for task, cells in found.items() for name in of
                for row in _rows(task, cells, name, name == first)]
        label = of[first].label
        parts += [f"## ({letter}) {label.capitalize()}", render.table(header, rows)]
    for task, cells in found.items():
        rows = [[measures.MEASURES[name].label,
                 *(measures.shown(cell, name) for cell in cells.values())]
                for name in measures.BESIDE]
        parts += [f"## Beside it: {task}", render.table(header, rows)]
    return parts


def _rows(task: str, cells: dict, name: str, always: bool) -> list[list[str]]:
    """Of one measure: what was found, and below it what the paper prints; none where it is not
    there, unless `always`."""
    printed = any(name in cell["paper"] for cell in cells.values())
    if not always and not printed and not any(name in cell for cell in cells.values()):
        return []
    title = task if always else f"{task}, {measures.MEASURES[name].label}"
    rows = [[title, *(measures.shown(cell, name) for cell in cells.values())]]
    if printed:
        rows.append([f"{title}, paper",
                     *(measures.of_paper(cell["paper"].get(name)) for cell in cells.values())])
    return rows


def main(argv: list[str]) -> None:
    table, *argv = argv
    columns = COLUMNS[table]
    methods = dict.fromkeys(column.method for column in columns.values())
    families = dict.fromkeys(column.family for column in columns.values())
    asked = parse(table, __doc__, argv, methods=methods, families=families)
    asked.table = table
    columns = {key: column for key, column in columns.items()
               if column.method in asked.methods and column.family in asked.families}
    needed = runs_of(asked, columns)
    if not asked.render:
        runs_lib.make(needed, asked.place)
    reports = {run: report for run in needed if (report := runs_lib.read(run, asked.place))}
    found = collect(asked, columns, reports)
    said = ["mean ± standard deviation over seeds (number of seeds). " + measures.EXPLAINED,
            f"Paper: {PAPER['source']}; {PAPER['metric']}; {PAPER['note']}",
            *render.notes(asked, needed, list(reports.values()))]
    render.write(asked.out, asked.name, markdown(asked, columns, found), said,
                 {"table": table, "seeds": asked.seeds, "tasks": found,
                  "paper": {key: PAPER[key] for key in ("source", "metric", "note")}})


if __name__ == "__main__":
    finish(main)
