"""How far the exported files of finished runs are from their students.

    python experiments/export_parity.py --workdirs=runs/seed0,runs/seed1 \
        --out=experiments/results/export_parity.json --name=scripted

Of each run and format the largest differences that an export prints, without its limit, and over
all of them; see docs/export.md, "How exact a file is". The JSON keeps other names.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import jax

from vdd_jax import config as config_lib
from vdd_jax import export, export_parity, policy
from vdd_jax.checkpoint import write_json


def differences(workdir: Path, form: str) -> dict:
    """By inputs and by what is compared, the relative difference of a file from the policy.

    Raises:
      One of `export.USER_ERRORS`.
    """
    student, chosen = export.exportable(policy.load(workdir)), export.FORMATS[form]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / chosen.name
        chosen.write(student, file)
        call = chosen.read(file)
        return {what: {name: found.relative for name, found in export_parity.compare(
                           student, call, given).items()}
                for what, given in export.inputs_to_compare(student, workdir).items()}


def largest(runs: list[dict]) -> dict:
    """Over all runs and formats."""
    worst = {}
    for run in runs:
        for what, found in run["differences"].items():
            for name, value in found.items():
                of = worst.setdefault(what, {})
                of[name] = max(of.get(name, 0.0), value)
    return worst


def render(worst: dict) -> str:
    lines = ["| largest difference | " + " | ".join(worst) + " |", "|" + "---|" * (len(worst) + 1)]
    for name in export_parity.COMPARED:
        lines.append(f"| {name} | " + " | ".join(f"{of[name]:.1e}" for of in worst.values()) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdirs", required=True, help="finished runs, with commas between")
    parser.add_argument("--formats", default=",".join(export.FORMATS), help="with commas between")
    parser.add_argument("--name", required=True, help="under which the JSON keeps the numbers")
    parser.add_argument("--out", default="experiments/results/export_parity.json", type=Path)
    flags = parser.parse_args(arguments)
    formats = flags.formats.split(",")
    if unknown := [form for form in formats if form not in export.FORMATS]:
        parser.error(f"--formats has {unknown[0]!r}; there are {', '.join(export.FORMATS)}")
    try:
        runs = [{"run": Path(workdir).name, "format": form,
                 "differences": differences(Path(workdir), form)}
                for workdir in flags.workdirs.split(",") for form in formats]
    except export.USER_ERRORS as error:
        parser.error(f"--workdirs: {error}")
    worst = largest(runs)
    print(render(worst))
    kept = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent,
                            text=True, capture_output=True).stdout.strip()
    write_json(flags.out, kept | {flags.name: {
        "commit": commit, "device": jax.devices()[0].device_kind,
        "versions": config_lib.versions(), "largest": worst, "runs": runs}})


if __name__ == "__main__":
    main()
