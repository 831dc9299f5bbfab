"""Paths and dotted names that pages and tests mention exist in the repository."""

from __future__ import annotations

import ast
import io
import pydoc
import re
import tokenize
from pathlib import Path

import pytest

from project import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "plugins/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("*.md")),
]
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name != Path(__file__).name)

PATH = re.compile(r"(?<![\w/.<>~$-])(?:tests|pruneboard|docs|benchmarks|plugins|results)/[\w./<>*{}-]*")
"""A path from the root of the repository; not the end of a longer path or of a URL."""

NAME = re.compile(r"(?<![\w./-])pruneboard(?:\.[A-Za-z_]\w*)+")

READERS_PATHS = {
    "results/cifar10",
    "results/digits/test_resnet/prune/magnitude-s0.9-seed0-c4b4ebee",
    "results/leaderboard",
    "results/yours",
    "tests/test_contract.py",
}
"""Paths that the reader's own commands create: results of runs, and a file of a generated package."""

ENTRY_POINTS = "pruneboard.pruners"
"""Name of the group of entry points, which is not a module."""


def paths(text):
    """The paths in a text, without placeholders such as `results/<dataset>/`."""
    found = (match[0].rstrip("./") for match in PATH.finditer(text) if not re.search(r"[<>*{}]", match[0]))
    return {path for path in found if "/" in path}


def prose(source):
    """The comments, docstrings and other free-standing strings of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    return "\n".join([*comments, *(str(node.value) for node in strings if isinstance(node, ast.Constant))])


def missing(found):
    """The paths that do not exist."""
    return sorted(path for path in found - READERS_PATHS if not (ROOT / path).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_on_pages_exist(page):
    """Every path of the repository that a page names exists."""
    assert not missing(paths(page.read_text(encoding="utf-8")))


def test_paths_in_the_prose_of_tests_exist():
    """Every path of the repository that a docstring or comment of a test names exists."""
    found = {path: missing(paths(prose(path.read_text(encoding="utf-8")))) for path in TESTS}
    assert not [f"{path.relative_to(ROOT)}: {', '.join(lost)}" for path, lost in found.items() if lost]


def test_every_exception_is_needed():
    """Each of the reader's paths is named on a page."""
    assert set().union(*(paths(page.read_text(encoding="utf-8")) for page in PAGES)) >= READERS_PATHS


def test_names_on_pages_exist():
    """Every dotted name `pruneboard.x.y` on a page is a module or an attribute of one."""
    found = {name for page in PAGES for name in NAME.findall(page.read_text(encoding="utf-8"))} - {ENTRY_POINTS}
    assert {"pruneboard.run", "pruneboard.api", "pruneboard.scores"} <= found
    assert [name for name in sorted(found) if pydoc.locate(name) is None] == []


def test_the_search_finds_paths_and_skips_placeholders():
    """Paths in backticks, links and prose are found; placeholders, ends of longer paths and URLs are not."""
    text = "`docs/a.md`, [b](plugins/b/), see tests/c.py. results/<name>/run.json node1/results/x https://x.org/docs/y"
    assert paths(text) == {"docs/a.md", "plugins/b", "tests/c.py"}
    assert missing({"docs/checks.md", "docs/no-such-page.md"}) == ["docs/no-such-page.md"]
    assert NAME.findall("`pruneboard.api`, x.pruneboard.y, pruneboard.run(), pruneboard/a.b") == [
        "pruneboard.api",
        "pruneboard.run",
    ]


def test_comments_and_docstrings_are_prose():
    """The search in tests reads comments, docstrings and strings below assignments, but no other strings."""
    source = '"""a"""\nX = "b"  # c\n"""d"""\ndef f():\n    """e"""\n'
    assert sorted(prose(source).replace("# ", "").split("\n")) == ["a", "c", "d", "e"]
