"""Tables as Markdown, what was run as notes, and both written beside each other."""

import json
from collections.abc import Iterable
from pathlib import Path

import runs as runs_lib
from options import without_paths


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Of Markdown."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def notes(asked, runs: list, reports: list[dict]) -> list[str]:
    """What the numbers come from, a sentence an item.

    Args:
      asked: the options.
      runs: those that were asked for.
      reports: those that are there.
    """
    said = []
    if asked.variant == "smoke":
        said.append("**Smoke sizes: these numbers mean nothing.**")
    for task in sorted({report["task"] for report in reports}):
        said += _origin(task, [report for report in reports if report["task"] == task])
    made = runs_lib.commits(runs, asked.place)
    if asked.place.existing:
        made.append("not recorded for vdd runs taken from elsewhere")
    said += [
        f"Runs: {len(reports)} of {len(runs)}, seeds {', '.join(map(str, asked.seeds))}. Commit of "
        f"the runs: {'; '.join(made) or 'not recorded'}; of this page: {runs_lib.commit()}.",
        f"Command: `{asked.command}`"]
    return said


def _origin(task: str, reports: list[dict]) -> list[str]:
    """Simulator, demonstrations, episodes, and how far they are from the paper's."""
    def each(of):
        return "; ".join(sorted({without_paths(str(of(report))) for report in reports}))

    simulator = each(lambda r: r["teacher"]["simulator"])
    demonstrations = each(lambda r: r["teacher"]["demonstrations"]["demonstrations"])
    episodes = each(lambda r: r["student"]["episodes"])
    said = [f"{task}: {episodes} episodes a seed in {simulator}; demonstrations: "
            f"{demonstrations}."]
    apart = []
    if "re-created" in simulator:
        apart.append("the simulator is not the paper's official one")
    if "scripted" in demonstrations:
        apart.append("the demonstrations are not the paper's recordings")
    if apart:
        said.append(f"{task}: {', and '.join(apart)}: the paper's numbers are not measured on "
                    "the same thing.")
    return said


def write(out: Path, name: str, markdown: list[str], said: list[str], record: dict) -> None:
    """`name.md` and `name.json` under `out`; prints the Markdown.

    Args:
      markdown: paragraphs and tables.
      said: the notes below them.
      record: everything as numbers.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*markdown, "\n".join(f"- {note}" for note in said)]) + "\n"
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(
        json.dumps({**record, "notes": said}, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{text}\nwritten to {out / name}.md and .json")
