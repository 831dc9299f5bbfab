"""The wheel contains everything that a run needs, and works without the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "9.8.7"
"""The version of the copy that is built; it distinguishes the wheel from any other installed pruneboard."""

PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
DATA = {".toml", ".csv", ".gz", ".html", ".css", ".js", ".jinja"}
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "pruneboard", "plugins")


def sources():
    """The files of a clone: those of git, including new ones; without git, the files that a build needs."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or "pyproject.toml" not in names:
        return [
            path
            for name in NEEDED
            for path in (ROOT / name, *(ROOT / name).rglob("*"))
            if "__pycache__" not in path.parts
        ]
    return [ROOT / name for name in names]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built offline from a copy of the source tree."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for path in sources():
        if path.is_file():
            target = tree / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    project = tree / "pyproject.toml"
    text, count = re.subn(r'(?m)^version = ".*"$', f'version = "{VERSION}"', project.read_text(encoding="utf-8"))
    assert count == 1
    project.write_text(text, encoding="utf-8")
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)], tree)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with that wheel installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    call([*pip, "--disable-pip-version-check", "--target", str(folder), str(wheel)], folder)
    return folder


def call(command, cwd, **environment):
    """Run a command and return its standard output; on failure, show its output."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel):
    """The files of the wheel: name -> content, decoded as text."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def test_the_wheel_contains_all_files_of_a_run(wheel):
    """The wheel contains every module, plugin and data file of the tree, the typing marker and the license."""
    files = contents(wheel)
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "pruneboard").rglob("*.py")}
    modules |= {
        str(p.relative_to(ROOT / "plugins")) for name in PLUGINS for p in (ROOT / "plugins" / name).rglob("*.py")
    }
    data = {str(p.relative_to(ROOT)) for p in (ROOT / "pruneboard").rglob("*") if p.suffix in DATA}
    assert {Path(name).suffix for name in data} == DATA
    assert modules | data | {"pruneboard/py.typed"} <= set(files)
    (license_text,) = (text for name, text in files.items() if name.endswith("LICENSE"))
    assert license_text == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_wheel_contains_nothing_else(wheel):
    """The wheel contains only the harness, the plugins and metadata: no tests, benchmarks or results."""
    tops = {name.partition("/")[0] for name in contents(wheel)}
    assert tops == {"pruneboard", *PLUGINS, f"pruneboard-{VERSION}.dist-info"}


def test_the_wheel_declares_its_entry_points(wheel):
    """The wheel has one command, one entry point per plugin folder, and the documented minimum Python version."""
    files = contents(wheel)
    points = files[f"pruneboard-{VERSION}.dist-info/entry_points.txt"]
    assert "pruneboard = pruneboard.cli:main" in points
    _, _, group = points.partition("[pruneboard.pruners]")
    assert sorted(re.findall(r"= (\w+):", group.partition("[")[0])) == PLUGINS
    metadata = message_from_string(files[f"pruneboard-{VERSION}.dist-info/METADATA"])
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"


def pruneboard(installed, cwd, *arguments):
    """Run the installed pruneboard outside the source tree, and return its standard output."""
    return call([sys.executable, "-m", "pruneboard", *arguments], cwd, PYTHONPATH=str(installed))


def test_the_installed_package_is_the_wheel(installed, tmp_path):
    """The version and the methods are those of the wheel, not of another installed pruneboard."""
    where = call(
        [sys.executable, "-c", "import pruneboard; print(pruneboard.__file__)"], tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(where.strip()).is_relative_to(installed)
    assert VERSION in pruneboard(installed, tmp_path, "--version")
    rows = json.loads(pruneboard(installed, tmp_path, "list", "--json"))
    assert {row["object"].partition(":")[0] for row in rows if row["version"] == VERSION} == set(PLUGINS)


def test_the_installed_package_passes_doctor(installed, tmp_path):
    """`doctor` reports no problem."""
    assert json.loads(pruneboard(installed, tmp_path, "doctor", "--json"))["ok"]


@pytest.mark.slow
def test_the_installed_package_runs(installed, tmp_path):
    """A small run with a packaged recipe and plugin succeeds, is verified, and appears on the page."""
    small = ["--model", "test_resnet", "--epochs", "1", "--limit-train", "71", "--batch-size", "32"]
    small += ["--warmup-epochs", "0"]
    arguments = ["run", "--method", "probmask", "--sparsity", "0.9", *small, "--quiet", "--json"]
    record = json.loads(pruneboard(installed, tmp_path, *arguments))
    assert record["status"] == "done"
    assert (record["method"]["distribution"], record["method"]["version"]) == ("pruneboard", VERSION)
    assert record["software"]["pruneboard"] == VERSION
    assert json.loads(next(tmp_path.rglob("run.json")).read_text(encoding="utf-8")) == record
    assert "certified" in pruneboard(installed, tmp_path, "verify", "results")
    pruneboard(installed, tmp_path, "compare", "results")
    page = (tmp_path / "results" / "leaderboard" / "leaderboard.html").read_text(encoding="utf-8")
    assert "certified" in page


def test_the_installed_package_writes_new_plugins(installed, tmp_path):
    """The wheel contains the templates of `new-plugin`, and the new package requires this version or later."""
    pruneboard(installed, tmp_path, "new-plugin", "mine")
    assert f'"pruneboard>={VERSION}"' in (tmp_path / "pruneboard-mine" / "pyproject.toml").read_text(encoding="utf-8")
