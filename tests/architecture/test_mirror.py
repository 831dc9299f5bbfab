"""Tests are found by module: tests/<package>/test_<module>.py holds the tests of pruneboard/<package>/<module>.py."""

from __future__ import annotations

import ast
from pathlib import Path

from project import ROOT

HARNESS, TESTS = ROOT / "pruneboard", ROOT / "tests"
MAX_LINES = 350
SHARE = 0.9
"""Share of the modules that have a test file of their own."""


def modules(harness: Path) -> list[Path]:
    """Return the modules of the harness, relative to it, without `__init__` and `__main__`."""
    return sorted(path.relative_to(harness) for path in harness.rglob("*.py") if not path.name.startswith("__"))


def without_test(harness: Path, tests: Path) -> list[str]:
    """Return the modules without a test file at the mirrored path."""
    return [str(path) for path in modules(harness) if not (tests / path.parent / f"test_{path.name}").exists()]


def too_long(tests: Path) -> list[str]:
    """Return the test files with more than `MAX_LINES` lines, with their length."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in tests.rglob("test_*.py")}
    return sorted(f"{path.relative_to(tests)}: {count}" for path, count in lengths.items() if count > MAX_LINES)


def misnamed(tests: Path) -> list[str]:
    """Return the files that define a test function but are not named `test_*.py`, which pytest would not collect."""
    others = [path for path in tests.rglob("*.py") if not path.name.startswith("test_")]
    return sorted(str(path.relative_to(tests)) for path in others if _defines_a_test(path))


def _defines_a_test(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))


def test_nine_in_ten_modules_have_a_test_file():
    """At least nine in ten modules have a test file at the same path below tests/."""
    missing, total = without_test(HARNESS, TESTS), len(modules(HARNESS))
    assert len(missing) <= (1 - SHARE) * total, f"{len(missing)} of {total} modules without a test file: {missing}"


def test_no_test_file_is_too_long():
    """No test file has more than 350 lines."""
    assert not too_long(TESTS)


def test_every_file_with_a_test_is_collected():
    """Every file below tests/ that defines a test function is named test_*.py."""
    assert not misnamed(TESTS)


def test_violations_are_detected(tmp_path):
    """A module without a test file, a long test file and a misnamed one are each reported with their path."""
    for name in ("harness/a/b.py", "harness/a/c.py", "harness/a/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tests = tmp_path / "tests"
    (tests / "a").mkdir(parents=True)
    (tests / "a" / "test_b.py").write_text("\n" * (MAX_LINES + 1))
    (tests / "a" / "helpers.py").write_text("class A:\n    def test_it(self): pass\n")
    assert without_test(tmp_path / "harness", tests) == ["a/c.py"]
    assert too_long(tests) == ["a/test_b.py: 351"]
    assert misnamed(tests) == ["a/helpers.py"]
