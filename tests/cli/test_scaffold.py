"""The generated package of a new method: it is complete, clean and works, and an error leaves nothing behind."""

from __future__ import annotations

import ast
import json
import keyword
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pruneboard import registry
from pruneboard.api import Progress
from pruneboard.cli import scaffold
from pruneboard.errors import UsageError
from pruneboard.scores import still_kept
from pruneboard.training import gates
from runs import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
NAMES = ["mine", "soft-threshold-2", "mask", "value-error", "abcdefghijklmno-pqrstuvwxyz12345"]
"""A plain name, one with digits, two whose class names are reserved, and one of maximum length."""

FOLDER = "pruneboard-mine"
words = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,4}", fullmatch=True)


@pytest.fixture
def package(tmp_path):
    """The package of a method named `mine`."""
    return scaffold.create("mine", tmp_path)


def method_source(name="mine"):
    """The generated module of a method."""
    (source,) = (text for path, text in scaffold.files(name).items() if path.startswith("src/"))
    return source


@pytest.fixture
def mine(site):
    """The generated class, installed as a third-party plugin."""
    source = method_source()
    site.add(
        "pruneboard_mine", source, module="stranger_mine", points="[pruneboard.pruners]\nmine = stranger_mine:Mine\n"
    )
    return registry.load(registry.find("mine"))


# Names


@pytest.mark.parametrize(
    "name",
    ["", "Mine", "my_method", "2nd", "-a", "a-", "a--b", "a b", "a/b", "..", "a.b", "é", "mine\n", "x" * 33, "--help "],
)
def test_invalid_names_are_refused(tmp_path, name):
    """An error for anything but lowercase letters, digits and single hyphens says what is allowed."""
    with pytest.raises(UsageError, match="lowercase letters, digits and single hyphens") as caught:
        scaffold.create(name, tmp_path)
    assert repr(name) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_of_installed_methods_are_refused(site, tmp_path):
    """Names of built-in and of third-party methods are refused, with the distribution that owns them."""
    site.add("their_pruner", version="0.7.1")
    for name, owner in (("magnitude", "pruneboard "), ("thing", "their_pruner 0.7.1: choose another name")):
        with pytest.raises(UsageError, match=f"method '{name}' is installed already, from {owner}"):
            scaffold.create(name, tmp_path / "no-such-folder")


@given(words)
@settings(deadline=None, max_examples=30)
def test_every_allowed_name_gives_a_class_and_a_module(name):
    """The class name is an identifier that the module does not use otherwise, and the module can be imported."""
    assume(len(name) <= scaffold.MAX_NAME_LENGTH)
    cls = scaffold.class_name(name)
    assert cls.isidentifier()
    assert not keyword.iskeyword(cls)
    tree = ast.parse(method_source(name))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    others = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | imported(tree)
    assert found.name == cls
    assert cls not in others
    (module,) = (path for path in scaffold.files(name) if path.startswith("src/"))
    assert Path(module).stem.isidentifier()


def imported(tree):
    """The names that a module imports."""
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_reserved_names_are_those_the_module_imports():
    """The reserved class names are the capitalized names that the module imports."""
    assert {name for name in imported(ast.parse(method_source())) if name[0].isupper()} == scaffold.RESERVED


# Files


def test_the_package_is_complete(package):
    """It has a project file, a module, a test of the rules, a README, a workflow and a .gitignore, and nothing else."""
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert found == {
        "pyproject.toml",
        "src/pruneboard_mine.py",
        "tests/test_contract.py",
        "README.md",
        ".github/workflows/test.yml",
        ".gitignore",
    }
    for path in found:
        text = (package / path).read_text(encoding="utf-8")
        assert text.endswith("\n")
        assert not re.search(r"\{%|%\}|(?<!\$)\{\{", text), path


def test_every_template_is_used():
    """Every template file is used for the package."""
    shipped = {path.name for path in (ROOT / "pruneboard" / "cli" / "scaffold" / "templates").iterdir()}
    assert shipped == set(scaffold.FILES.values())


def test_the_project_names_the_method(package):
    """The project file has the entry point, the minimum Python, the dependency on pruneboard, and pytest for tests."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == FOLDER
    assert project["project"]["entry-points"]["pruneboard.pruners"] == {"mine": "pruneboard_mine:Mine"}
    assert project["project"]["requires-python"] == ">=3.10"
    (dependency,) = project["project"]["dependencies"]
    assert re.fullmatch(r"pruneboard>=[\d.a-z]+", dependency)
    assert project["project"]["optional-dependencies"]["test"] == ["pytest>=8"]
    assert project["tool"]["setuptools"]["py-modules"] == ["pruneboard_mine"]


def test_the_workflow_installs_and_tests(package):
    """The steps of the workflow install the package, run its tests and check the method."""
    workflow = yaml.safe_load((package / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-3:] == ["pip install -e '.[test]'", "pytest", "pruneboard check mine"]
    assert {"python-version": "${{ matrix.python }}"} in [step.get("with") for step in job["steps"]]


def test_the_folder_has_default_permissions(package):
    """The folder has the same permissions as any folder that the user creates."""
    other = package.parent / "other"
    other.mkdir()
    assert package.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("name", NAMES)
def test_the_package_is_clean_under_default_ruff(tmp_path, name):
    """Ruff with default settings finds no problem in it and would not reformat it."""
    folder = scaffold.create(name, tmp_path)
    for arguments in (["check"], ["format", "--check"]):
        call(["ruff", *arguments, "--no-cache", "."], folder)


@pytest.mark.slow
def test_the_method_is_typed(package):
    """The module passes mypy --strict."""
    cache = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    call(["mypy", "--strict", *cache, "src/pruneboard_mine.py"], package)


def call(arguments, folder):
    """Run a tool as a module in a folder; on failure, show its output."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# All or nothing


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path, kind):
    """An existing folder, file or dangling link with the name is not changed."""
    place = tmp_path / FOLDER
    {"folder": place.mkdir, "file": place.touch, "link": lambda: place.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match="exists, and nothing is overwritten"):
        scaffold.create("mine", tmp_path)
    assert list(tmp_path.iterdir()) == [place]
    assert not place.is_dir() or not list(place.iterdir())


def test_a_write_error_leaves_nothing(tmp_path):
    """If a file cannot be written completely, no part of the package is left, and the error says why."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(UsageError, match=f"cannot write {tmp_path / FOLDER}: File too large; choose"):
            scaffold.create("mine", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


# The method


def test_the_generated_method_runs(mine, tmp_path):
    """Installed as a third-party plugin, it prunes more in each epoch until `end`, and keeps exactly the budget."""
    record = run(tmp_path, "mine", 0.9, options={"end": 0.75}, overrides={"epochs": 4})
    sparsity = record["sparsity"]
    assert record["method"]["distribution"] == "pruneboard_mine"
    assert record["budget"]["harden_step"] == 12
    assert sparsity["kept"] == sparsity["prunable"] - round(0.9 * sparsity["prunable"])
    (log,) = tmp_path.rglob("metrics.jsonl")
    by_epoch = [json.loads(line)["sparsity"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert by_epoch == sorted(set(by_epoch))
    assert len(by_epoch) == 4


@given(st.integers(0, 40), st.floats(0, 0.9))
@settings(deadline=None, max_examples=20)
def test_the_generated_method_prunes_linearly(step, sparsity):
    """At every step of a search of 40 steps, the masks keep the top scores of the latest update, as many as planned."""
    module = types.ModuleType("pruneboard_mine")
    sys.modules["pruneboard_mine"] = module  # dataclasses look up their module
    try:
        exec(method_source(), module.__dict__)
    finally:
        del sys.modules["pruneboard_mine"]
    pruner = module.Mine(sparsity=sparsity)
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    layers = gates.attach(pruner, [("0", net[0]), ("1", net[1])], gates.DrawKey(0), hits_target=True)
    for now in range(step + 1):
        pruner.before_step(layers, Progress(now, 80, 40, "search", lambda _: torch.Generator(), None))
    updated = 40 if step == 40 else step - step % 2
    k = sum(layer.keep for layer in layers)
    masks = torch.cat([layer.gate.keep.flatten() for layer in layers])
    scores = torch.cat([pruner.score(layer).flatten() for layer in layers])
    assert int(masks.sum()) == still_kept(k, 50, 1 - updated / 40)
    assert step < 40 or int(masks.sum()) == k
    assert not (masks == 0).any() or scores[masks == 1].min() >= scores[masks == 0].max()


def test_the_generated_method_checks_its_option(mine):
    """An invalid value of its option is refused in one line."""
    with pytest.raises(UsageError, match=r"method 'mine': end is a fraction in \(0, 1\]; found 0"):
        registry.build(registry.find("mine"), 0.5, {"end": "0"})
    assert registry.option_types(mine) == {"end": float}
