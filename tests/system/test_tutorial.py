"""The tutorial in `docs/plugins.md`: its commands lead from an empty folder to a row on the board."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

from environments import fresh, layered
from project import ROOT, blocks, text
from pruneboard.cli import load_command, scaffold
from pruneboard.testing import SUITE, check_pruner

PAGE = "docs/plugins.md"
METHODS = ("mine pruneboard_mine", "magnitude (baseline)", "random (floor)")
PYTEST_COMMAND = "python -m pytest pruneboard-mine\n"


def follow(environment, folder, *, skip=""):
    """Run the commands of the page in an empty folder, except `skip`, and return their output."""
    folder.mkdir()
    commands = "".join(blocks("sh", PAGE))
    assert skip in commands
    return environment.output(commands.replace(skip, ""), folder, timeout=1800)


def assert_a_row(printed, folder):
    """Assert that the last table has the new method next to its controls, with both seeds and its distribution."""
    (head,) = re.findall(r"^dense control: \d+\.\d\d ± \d+\.\d\d \(2\)$", printed, re.MULTILINE)
    board = printed[printed.index(head) :]
    for method in METHODS:
        assert re.search(rf"^{re.escape(method)} +\d+\.\d\d ± \d+\.\d\d \(2\)", board, re.MULTILINE), method
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("run.json")]
    ours = [record for record in records if record["method"]["name"] == "mine"]
    assert [record["status"] for record in records] == ["done"] * 8
    assert [record["method"]["distribution"] for record in ours] == ["pruneboard_mine"] * 2
    assert len({record["board"]["fingerprint"] for record in records}) == 1
    assert "pruneboard_mine 0.1.0" in (folder / "results/leaderboard/leaderboard.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tutorial_ends_with_a_row(tmp_path):
    """Run without a network, the commands end with the new method in the table of `compare`.

    The next test also runs the pytest command, which repeats the checks of `pruneboard check`.
    """
    folder = tmp_path / "empty"
    printed = follow(layered(tmp_path / "environment"), folder, skip=PYTEST_COMMAND)
    assert re.search(r"^ *mine +pruneboard_mine +0\.1\.0 +pruneboard_mine:Mine", printed, re.MULTILINE)
    assert_a_row(printed, folder)


@pytest.mark.slow
def test_the_tutorial_in_a_new_environment(tmp_path):
    """The commands work in an empty environment, with this pruneboard and dependencies from the package index."""
    tree = tmp_path / "tree"
    for name in ("pruneboard", "plugins"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    environment = fresh(tmp_path / "environment")
    environment.output(["pip", "install", "--quiet", str(tree)], tmp_path, timeout=3600)
    printed = follow(environment, tmp_path / "empty")
    assert re.search(r"^=+ \d+ passed", printed, re.MULTILINE)
    assert_a_row(printed, tmp_path / "empty")


def test_the_line_to_replace_is_in_the_module():
    """The lines that the page shows are in the module that `new-plugin` writes."""
    (shown,) = blocks("python", PAGE)
    assert textwrap.indent(shown, "    ") in scaffold.files("mine")["src/pruneboard_mine.py"]


def test_the_table_of_files_is_that_of_the_package():
    """The page names exactly the files that `new-plugin` writes."""
    rows = re.findall(r"^\| (`[^|]*) \|", text(PAGE), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(scaffold.files("mine"))


def test_the_names_of_checks_exist():
    """Every check named in docs/rules.md exists, and every core check is named, except those that test no rule."""
    rows = re.findall(r"^\| .* \|$", text("docs/rules.md"), re.MULTILINE)[1:]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[3])}
    assert named <= {check.name for check in SUITE}
    assert {check.name for check in SUITE if check.tier == "core"} - named <= UNNAMED


UNNAMED = {"traits-are-constant", "gradient-reaches-every-layer", "runs-in-channels-last", "runs-on-cuda"}
"""Core checks that test whether a method works, not a rule of docs/rules.md."""


def test_the_readme_of_a_package_holds():
    """Every command in the README of a generated package exists, with its flags."""
    readme = scaffold.files("mine")["README.md"]
    shown = "".join(re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)).splitlines()
    calls = [shlex.split(line)[1:] for line in shown if line.startswith("pruneboard ")]
    assert {call[0] for call in calls} == {"list", "check", "run", "compare", "verify"}
    for name, *arguments in calls:
        load_command(name).make_context(name, arguments)


@pytest.mark.slow
def test_the_contract_test_is_typed(tmp_path):
    """The generated test passes mypy --strict."""
    folder = scaffold.create("mine", tmp_path)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), "--strict"]
    command = [sys.executable, "-m", "mypy", *options, "src/pruneboard_mine.py", "tests/test_contract.py"]
    variables = os.environ | {"MYPYPATH": "src"}  # as if the package were installed
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_third_party_example_passes_the_checks(monkeypatch):
    """The method in `tests/strangers/movement` passes every check, core and advice."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "strangers" / "movement" / "src"))
    from movement_pruning import Movement

    found = check_pruner(Movement(sparsity=0.9))
    assert [f"{result.check}: {result.message}" for result in found if result.outcome == "failed"] == []
