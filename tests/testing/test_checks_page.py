"""The list of rules in docs/checks.md is generated from the docstrings of the checks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pruneboard.testing import SUITE

PAGE = Path(__file__).parents[2] / "docs" / "checks.md"
BEGIN, END = "<!-- made by tests/testing/test_checks_page.py -->\n", "<!-- end -->\n"


def table() -> str:
    """The list of checks on the page: one section per module, in the order in which the checks run."""
    lines: list[str] = []
    section = ""
    for check in SUITE:
        module = sys.modules[check.test.__module__]
        if module.__name__ != section:
            section = module.__name__
            lines += ["", f"### {module.__doc__.split(':')[0].splitlines()[0].partition('. ')[0].rstrip('.')}", ""]
            lines += ["| check | tier | applies | rule |", "|---|---|---|---|"]
        lines.append(f"| `{check.name}` | {check.tier} | {check.when or 'always'} | {check.rule} |")
    return "\n".join([*lines, "", ""])


def test_the_page_lists_every_check_with_its_rule():
    """The page lists every check with its tier, condition and rule; PRUNEBOARD_WRITE_DOCS=1 regenerates the list."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    made, _, after = rest.partition(END)
    if os.environ.get("PRUNEBOARD_WRITE_DOCS"):
        PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
        return
    assert made == table()


def test_every_rule_is_a_sentence():
    """The rule of every check is a sentence, and no two checks have the same name."""
    for check in SUITE:
        assert check.rule[0].isupper() or check.rule[0] == "`", check.name
        assert check.rule.endswith("."), check.name
    assert len({check.name for check in SUITE}) == len(SUITE)
