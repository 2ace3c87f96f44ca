"""The page of all configuration keys, from `config_keys.py`:

    python -m vdd_jax.config_reference > docs/configuration.md
"""

from vdd_jax.config_keys import KEYS

HEAD = """\
# Configuration

Every key, from `vdd_jax/config_keys.py` by `python -m vdd_jax.config_reference`. A file under
`configs/` overrides defaults, and every key can be set on the command line:
`--config.seed=1`, `--config.distill.noise.low=0.02`, `--config.stages="('distill','evaluate')"`.
An unknown key is refused with the nearest that exist. `--print_config` shows what a command would
run.

Noise levels are ratios σ/α in units of the scaled action, so that 1 is about the spread of the
data."""

GROUPS = {
    "": "The run as a whole",
    "task": "The task",
    "teacher": "The teacher, where it is learned",
    "student": "The student",
    "distill": "Distillation",
    "from_scratch": "The student without a teacher, a baseline",
    "consistency": "Consistency models, a baseline",
    "policy": "Acting",
    "evaluate": "Evaluation",
    "run": "How it is run",
}


KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text",
         tuple: "a tuple"}


def group(name: str) -> str:
    """The first part of a dotted key; '' for a key without parts."""
    return name.partition(".")[0] if "." in name else ""


def render() -> str:
    """The page, Markdown."""
    groups = dict.fromkeys(group(name) for name in KEYS)
    parts = [HEAD]
    for prefix in groups:
        rows = [f"## {GROUPS.get(prefix, prefix)}", "", "| key | default | may be | meaning |",
                "|---|---|---|---|"]
        rows += [_row(name) for name in KEYS if group(name) == prefix]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _row(name: str) -> str:
    key = KEYS[name]
    may_be = key.expected or KINDS[type(key.default)]
    cells = (f"`{name}`", f"`{key.default!r}`", may_be, key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(render(), end="")
