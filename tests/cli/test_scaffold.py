"""`new-plugin`: what it writes is complete, clean and works; what it cannot write leaves nothing behind."""

from __future__ import annotations

import ast
import json
import keyword
import re
import resource
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruneboard import registry
from pruneboard.api import Progress
from pruneboard.cli import invoke, load_command, scaffold
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
"""An ordinary one, one with digits, two whose classes would have names that are taken, and one of the longest."""

FOLDER = "pruneboard-mine"
words = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,4}", fullmatch=True)


@pytest.fixture
def package(tmp_path):
    """The package of a method called `mine`."""
    return scaffold.create("mine", tmp_path)


def method_source(name="mine"):
    """The generated module of a method."""
    (source,) = (text for path, text in scaffold.files(name).items() if path.startswith("src/"))
    return source


@pytest.fixture
def mine(site):
    """The generated class, installed as a stranger's."""
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
def test_names_that_are_not_allowed_are_refused(tmp_path, name):
    """Anything but lowercase letters, digits and single hyphens is answered with what is allowed."""
    with pytest.raises(UsageError, match="lowercase letters, digits and single hyphens") as caught:
        scaffold.create(name, tmp_path)
    assert repr(name) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_of_installed_methods_are_refused(site, tmp_path):
    """A built-in method's name and a stranger's are refused, with the distribution that has them."""
    site.add("their_pruner", version="0.7.1")
    for name, owner in (("magnitude", "pruneboard "), ("thing", "their_pruner 0.7.1: choose another name")):
        with pytest.raises(UsageError, match=f"method '{name}' is installed already, from {owner}"):
            scaffold.create(name, tmp_path / "no-such-folder")


@given(words)
@settings(deadline=None, max_examples=30)
def test_every_allowed_name_gives_a_class_and_a_module(name):
    """The class is an identifier that hides nothing which the module uses, the module one that can be imported."""
    if len(name) > scaffold.LONGEST:
        return
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


def test_taken_names_are_those_the_module_imports():
    """The list of names that no class may have is the list of imports that look like classes."""
    assert {name for name in imported(ast.parse(method_source())) if name[0].isupper()} == scaffold.TAKEN


# Files


def test_the_package_is_complete(package):
    """It has its project file, one module, the contract test, a README, a workflow and a .gitignore; and no more."""
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
    """The files that are shipped are those that packages are made from."""
    shipped = {path.name for path in (ROOT / "pruneboard" / "cli" / "scaffold" / "templates").iterdir()}
    assert shipped == set(scaffold.FILES.values())


def test_the_project_names_the_method(package):
    """The project file is TOML with the entry point, the oldest Python, pruneboard, and pytest for its tests."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == FOLDER
    assert project["project"]["entry-points"]["pruneboard.pruners"] == {"mine": "pruneboard_mine:Mine"}
    assert project["project"]["requires-python"] == ">=3.10"
    (dependency,) = project["project"]["dependencies"]
    assert re.fullmatch(r"pruneboard>=[\d.a-z]+", dependency)
    assert project["project"]["optional-dependencies"]["test"] == ["pytest>=8"]
    assert project["tool"]["setuptools"]["py-modules"] == ["pruneboard_mine"]


def test_the_workflow_installs_and_tests(package):
    """The workflow is YAML whose steps install the package, run its tests and check the method."""
    workflow = yaml.safe_load((package / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-3:] == ["pip install -e '.[test]'", "pytest", "pruneboard check mine"]
    assert {"python-version": "${{ matrix.python }}"} in [step.get("with") for step in job["steps"]]


def test_the_permissions_are_the_users(package):
    """The folder is as readable as any that the user makes."""
    other = package.parent / "other"
    other.mkdir()
    assert package.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("name", NAMES)
def test_the_package_is_clean_under_default_ruff(tmp_path, name):
    """Ruff finds nothing in it and would format nothing otherwise, with the settings it has by itself."""
    folder = scaffold.create(name, tmp_path)
    for arguments in (["check"], ["format", "--check"]):
        call(["ruff", *arguments, "--no-cache", "."], folder)


@pytest.mark.slow
def test_the_method_is_typed(package):
    """It passes mypy as strictly as pruneboard does."""
    cache = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    call(["mypy", "--strict", *cache, "src/pruneboard_mine.py"], package)


def call(arguments, folder):
    """Run a tool as a module in a folder; fail with what it says."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# All or nothing


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path, kind):
    """Whatever has the name already, an empty folder or a link that leads nowhere included, is left as it is."""
    place = tmp_path / FOLDER
    {"folder": place.mkdir, "file": place.touch, "link": lambda: place.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match="is already there, and nothing is overwritten"):
        scaffold.create("mine", tmp_path)
    assert list(tmp_path.iterdir()) == [place]
    assert not place.is_dir() or not list(place.iterdir())


def test_a_disk_that_refuses_leaves_nothing(tmp_path):
    """When a file cannot be written whole, no part of the package is there, and the line says why."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(UsageError, match=f"cannot write {tmp_path / FOLDER}: File too large; --path"):
            scaffold.create("mine", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_parent_that_is_no_folder_is_refused(capfd, tmp_path, place):
    """`--path` must be there and be a folder; the one line says what it takes."""
    (tmp_path / "file").touch()
    assert invoke(["new-plugin", "mine", "--path", str(tmp_path / place)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--path names a folder that can be written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# The command, and the method


def test_the_command_says_what_to_do_next(capfd, tmp_path, monkeypatch):
    """It prints where the method is and three commands, each of which exists with its flags."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my work").mkdir()
    assert invoke(["new-plugin", "mine", "--path", "my work"]) == 0
    first, _, *commands = capfd.readouterr().out.splitlines()
    assert first == "wrote my work/pruneboard-mine; the method is src/pruneboard_mine.py. Next:"
    install, check, train = map(shlex.split, commands)
    assert install == ["pip", "install", "-e", "my work/pruneboard-mine[test]"]
    assert check[:3] == ["pruneboard", "check", "mine"]
    assert check[3:] == ["&&", "python", "-m", "pytest", "my work/pruneboard-mine"]
    assert load_command("run").make_context("run", train[2:]).params["method"] == "mine"


def test_the_generated_method_runs(mine, tmp_path):
    """As a stranger's, it is trained, prunes more in each epoch until `end`, and keeps exactly the budget."""
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
def test_the_generated_method_prunes_along_a_line(step, sparsity):
    """At any step of a search of 40 the masks keep what the latest update allowed, by rank of the score."""
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


def test_the_generated_method_refuses_what_means_nothing(mine):
    """Its option is checked, and the message is the one line a user gets."""
    with pytest.raises(UsageError, match=r"method 'mine': end is a fraction in \(0, 1\]; found 0"):
        registry.build(registry.find("mine"), 0.5, {"end": "0"})
    assert registry.option_types(mine) == {"end": float}
