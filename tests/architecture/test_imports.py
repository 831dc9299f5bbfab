"""The import rules, checked on syntax trees: layers, external packages, plugins, and modules without torch."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from loading import loaded

LAYERS: list[set[str]] = [
    {"errors", "draws", "coerce"},
    {"api", "spec", "processes"},
    {"scores", "registry", "data", "models", "records"},
    {"training", "leaderboard"},
    {"experiment", "report"},
    {"artifacts", "sweeps", "testing"},
    {"cli", "__init__", "__main__"},
]
"""The packages and top-level modules of the harness, lowest level first. Imports go to the same level or below."""

NEEDS_TORCH = (
    *("api", "scores", "data", "models", "training", "experiment", "testing", "processes.rendezvous"),
    *(f"sweeps.{module}" for module in ("estimate", "plan", "scheduler", "single_run")),
    *(f"artifacts.exporting.{module}" for module in ("csr_files", "description", "export", "onnx_file", "readme")),
    "artifacts.exporting.safetensors_file",
    *(f"artifacts.latency.{module}" for module in ("dense_control", "document", "engines", "measure", "sparse_layers")),
    *(f"artifacts.verification.{module}" for module in ("evaluation", "network", "weights")),
)
"""Packages and modules that use tensors. Importing any other module does not import torch (see loading.py)."""

IMPORTERS = {
    "timm": ("models", "data"),
    "torchvision": ("data",),
    "sklearn": (),
    "deepspeed": ("training.engine",),
    "entrypoints": ("registry",),
    "click": ("cli",),
    "rich": ("report", "cli"),
    "scipy": ("leaderboard.stats", "artifacts.exporting", "artifacts.latency"),
    "onnx": ("artifacts.exporting",),
    "onnxruntime": ("artifacts.exporting",),
    "altair": ("report",),
    "vl_convert": ("report",),
    "jinja2": ("report", "cli.scaffold"),
    "markupsafe": ("report",),
    "ray": ("sweeps.executors",),
    "argparse": (),
    "pickle": ("testing",),  # never from files: only to send a pruner to another process
}
"""External package -> the packages and modules of the harness that may import it."""

VOCABULARY = {"dense", "random", "str"}
"""Names of built-in methods with another meaning in the harness: a control, an initialization, Python's type."""

ROOT = Path(__file__).parents[2]
HARNESS = ROOT / "pruneboard"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/__init__.py"))
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
Module = tuple[Path, str]
"""A source file and its dotted name without `pruneboard.`."""


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules() -> list[Module]:
    """Return every source file of the harness with its dotted name; the name of a package is that of its folder."""
    names = {path: path.relative_to(HARNESS).with_suffix("").parts for path in sorted(HARNESS.rglob("*.py"))}
    return [
        (path, ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts))
        for path, parts in names.items()
    ]


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a module is one of `places` or inside one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports in a file, including those in functions and for type checkers."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def unit_of(name: str) -> str | None:
    """Return the package or top-level module of a dotted name, or None outside the harness."""
    package, _, rest = f"{name}.".partition(".")
    if package != "pruneboard":
        return None
    unit = rest.partition(".")[0]
    return unit if unit in LEVEL else "__init__"


def edges() -> Iterator[tuple[str, int, str, str]]:
    """Yield (file, line, importing unit, imported unit) for all imports between units of the harness."""
    for path, module in modules():
        unit = module.partition(".")[0]
        for line, name in imported(path):
            target = unit_of(name)
            if target is not None and target != unit:
                yield str(path.relative_to(ROOT)), line, unit, target


# Directions


def test_every_package_is_in_the_table_once():
    """Each package and top-level module of the harness has exactly one level, and the table has no other entries."""
    units = [unit for level in LAYERS for unit in level]
    assert len(units) == len(set(units))
    assert {module.partition(".")[0] for _, module in modules()} == set(units)


def test_the_top_level_stays_small():
    """The harness has at most 13 packages and 8 modules at its top level."""
    packages = [path for path in HARNESS.iterdir() if (path / "__init__.py").exists()]
    assert len(packages) <= 13
    assert len(list(HARNESS.glob("*.py"))) <= 8


def test_imports_point_down():
    """No package imports from a higher level."""
    up = [
        f"{file}:{line} ({unit} imports {target})" for file, line, unit, target in edges() if _points_up(unit, target)
    ]
    assert not up


def _points_up(unit, target) -> bool:
    return LEVEL[target] > LEVEL[unit]


def test_packages_have_no_import_cycles():
    """The imports between packages form no cycle, also within one level."""
    graph: dict[str, set[str]] = {}
    for _, _, unit, target in edges():
        graph.setdefault(unit, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()


def test_violations_are_detected(tmp_path):
    """Imports in functions, aliases and dotted names are found, so the rules above can fail."""
    source = tmp_path / "bad.py"
    source.write_text(
        "import pruneboard.training.loop as t\nfrom pruneboard import cli, __version__\n"
        "def late():\n    from pruneboard.report.text import csv\n    import timm.layers\n"
    )
    assert [(line, unit_of(name)) for line, name in imported(source)] == [
        (1, "training"),
        (2, "cli"),
        (2, "__init__"),
        (4, "report"),
        (5, None),
    ]
    assert _points_up("errors", "training")
    assert not _points_up("training", "errors")


# External packages


@pytest.mark.parametrize("package", IMPORTERS)
def test_external_packages_are_imported_in_listed_places_only(package):
    """No other module imports the package, not even inside a function."""
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path, module in modules()
        for line, name in imported(path)
        if name.partition(".")[0] == package and not within(module, IMPORTERS[package])
    }
    assert not found


@pytest.mark.parametrize(
    ("package", "place"), [(name, place) for name, places in IMPORTERS.items() for place in places]
)
def test_every_listed_place_imports_the_package(package, place):
    """Every place in the table does import the package."""
    users = [module for path, module in modules() for _, name in imported(path) if name.partition(".")[0] == package]
    assert any(within(module, (place,)) for module in users)


# Plugins


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_plugins_import_the_interface_and_torch_only(folder):
    """Built-in methods import only the plugin interface, `pruneboard.scores`, torch, numpy and the standard library."""
    allowed = {"torch", "numpy", folder.name, *sys.stdlib_module_names}
    for path in sorted(folder.rglob("*.py")):
        for line, name in imported(path):
            ours = name.startswith(("pruneboard.api.", "pruneboard.scores."))
            assert ours or name.partition(".")[0] in allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_the_harness_imports_no_plugin():
    """No module of `pruneboard` imports `pruneboard_*`."""
    assert not [name for path, _ in modules() for _, name in imported(path) if name.startswith("pruneboard_")]


def strings(path: Path) -> Iterator[ast.Constant]:
    """Yield the string constants of a file, except docstrings and help texts."""
    prose = {
        id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr) and _is_text(node.value)
    }  # docstrings, including those of attributes
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg in {"help", "epilog"}:
            prose.update(id(part) for part in ast.walk(node.value))
    yield from (node for node in ast.walk(tree(path)) if _is_text(node) and id(node) not in prose)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def method_names(folders) -> set[str]:
    """Return the names of built-in methods, except those with another meaning in the harness."""
    return {folder.name.removeprefix("pruneboard_") for folder in folders} - VOCABULARY


def test_the_harness_names_no_method():
    """No string in the harness's code contains the name of a built-in method or its package."""
    assert {"probmask", "magnitude"} <= method_names(PLUGINS)
    words = re.compile(rf"(?i:\b({'|'.join(sorted(method_names(PLUGINS)))})\b)|\bpruneboard_\w")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path, _ in modules()
        for node in strings(path)
        if words.search(node.value)
    ]
    assert not found


# Modules without torch


def test_modules_outside_the_list_import_no_torch():
    """Specs, records, boards, reports and the command line import neither torch, timm nor DeepSpeed."""
    light = [module for _, module in modules() if not within(module, NEEDS_TORCH) and "__" not in module]
    assert {"cli.run", "leaderboard.build", "records.store", "report.page", "sweeps.manifest"} <= set(light)
    assert loaded(f"import pruneboard, {', '.join(f'pruneboard.{module}' for module in light)}") == set()


@pytest.mark.parametrize("place", NEEDS_TORCH)
def test_listed_modules_exist(place):
    """Every entry of `NEEDS_TORCH` is an existing package or module."""
    assert any(within(module, (place,)) for _, module in modules())
