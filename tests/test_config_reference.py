"""The page of keys has all of them, in a table that Markdown can show."""

import re

from vdd_jax import config_reference
from vdd_jax.config_keys import KEYS, Key


def test_every_key_has_a_row_under_its_group():
    """Four cells each: name, default, what it may be, meaning."""
    page = config_reference.render()
    sections = page.split("\n## ")[1:]
    rows = {}
    for section in sections:
        for row in re.findall(r"^\| `(.+)$", section, re.M):
            cells = re.split(r"(?<!\\)\|", row)
            assert len(cells) == 5 and all(cell.strip() for cell in cells[:4]), row
            rows[cells[0].strip(" `")] = section.partition("\n")[0]
    assert set(rows) == set(KEYS)
    titles = {config_reference.group(name): title for name, title in rows.items()}
    assert len(set(titles.values())) == len(titles) == len(sections)


def test_a_new_group_and_a_bar_in_a_meaning(monkeypatch):
    """A group without a title has its name; a bar does not end a cell."""
    monkeypatch.setitem(KEYS, "fresh.key", Key(1.5, "of q(a|s)"))
    page = config_reference.render()
    assert "## fresh\n" in page and r"| `fresh.key` | `1.5` | a number | of q(a\|s) |" in page
