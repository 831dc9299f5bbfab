"""Who may import whom, asserted over the syntax trees from one table, and what starts without torch."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

LAYERS: list[set[str]] = [
    {"errors", "draws", "coerce"},
    {"api", "spec", "processes"},
    {"scores", "registry", "data", "models", "records"},
    {"training", "leaderboard"},
    {"experiment", "report"},
    {"artifacts", "sweeps", "testing"},
    {"cli", "__init__", "__main__"},
]
"""The packages and top-level modules of the harness, lowest first. A package imports from its own level or below."""

NEEDS_TORCH = (
    *("api", "scores", "data", "models", "training", "experiment", "testing", "processes.rendezvous"),
    *(f"sweeps.{module}" for module in ("estimate", "plan", "scheduler", "single_run")),
    *(f"artifacts.exporting.{module}" for module in ("csr_files", "description", "export", "onnx_file", "readme")),
    "artifacts.exporting.safetensors_file",
    *(f"artifacts.latency.{module}" for module in ("dense_control", "document", "engines", "measure", "sparse_layers")),
    *(f"artifacts.verification.{module}" for module in ("evaluation", "network", "weights")),
)
"""Packages and modules that work with tensors. Importing any other one loads none of `HEAVY`."""

HEAVY = ("torch", "torchvision", "timm", "deepspeed", "sklearn")

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
    "pickle": ("testing",),  # never from disk: checks that a pruner can be sent to another process
}
"""External package -> the only packages and modules of the harness that may import it."""

VOCABULARY = {"dense", "random", "str"}
"""Names of built-in methods that are also words of the harness: a control, a rule of initialization, Python's type."""

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
    """Return every source file of the harness with its dotted name; a package has the name of its folder."""
    names = {path: path.relative_to(HARNESS).with_suffix("").parts for path in sorted(HARNESS.rglob("*.py"))}
    return [
        (path, ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts))
        for path, parts in names.items()
    ]


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a module is one of `places` or lies in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports of a file: late ones and those for type checkers too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def unit_of(name: str) -> str | None:
    """Return the package or top-level module that a dotted name is in; None outside the harness."""
    package, _, rest = f"{name}.".partition(".")
    if package != "pruneboard":
        return None
    unit = rest.partition(".")[0]
    return unit if unit in LEVEL else "__init__"


def edges() -> Iterator[tuple[str, int, str, str]]:
    """Yield (file, line, importing unit, imported unit) within the harness."""
    for path, module in modules():
        unit = module.partition(".")[0]
        for line, name in imported(path):
            target = unit_of(name)
            if target is not None and target != unit:
                yield str(path.relative_to(ROOT)), line, unit, target


# Directions


def test_every_package_is_in_the_table_once():
    """Each package and top-level module of the harness has exactly one level, and the table names no other."""
    units = [unit for level in LAYERS for unit in level]
    assert len(units) == len(set(units))
    assert {module.partition(".")[0] for _, module in modules()} == set(units)


def test_the_top_level_stays_small():
    """The harness has at most 13 packages and 8 modules at its top level."""
    packages = [path for path in HARNESS.iterdir() if (path / "__init__.py").exists()]
    assert len(packages) <= 13
    assert len(list(HARNESS.glob("*.py"))) <= 8


def test_imports_point_down():
    """No package imports one on a higher level."""
    up = [
        f"{file}:{line} ({unit} imports {target})" for file, line, unit, target in edges() if _points_up(unit, target)
    ]
    assert not up


def _points_up(unit, target) -> bool:
    return LEVEL[target] > LEVEL[unit]


def test_packages_do_not_import_each_other_in_circles():
    """The imports between packages of one level have an order too."""
    graph: dict[str, set[str]] = {}
    for _, _, unit, target in edges():
        graph.setdefault(unit, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()


def test_the_rule_sees_a_violation(tmp_path):
    """Late imports, aliases and dotted names are all read, so the rules above can fail."""
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
def test_each_external_package_has_named_importers(package):
    """No other module imports it, not even inside a function."""
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
def test_each_named_importer_is_one(package, place):
    """The table names no place that does not import the package."""
    users = [module for path, module in modules() for _, name in imported(path) if name.partition(".")[0] == package]
    assert any(within(module, (place,)) for module in users)


# Plugins


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_plugins_import_the_interface_and_torch_only(folder):
    """A built-in method uses what a stranger's could: the interface, the shared arithmetic, torch, Python."""
    allowed = {"torch", "numpy", folder.name, *sys.stdlib_module_names}
    for path in sorted(folder.rglob("*.py")):
        for line, name in imported(path):
            ours = name.startswith(("pruneboard.api.", "pruneboard.scores."))
            assert ours or name.partition(".")[0] in allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_the_harness_imports_no_plugin():
    """`pruneboard` never imports `pruneboard_*`."""
    assert not [name for path, _ in modules() for _, name in imported(path) if name.startswith("pruneboard_")]


def strings(path: Path) -> Iterator[ast.Constant]:
    """Yield the string constants of a file that are neither docstrings nor help texts."""
    prose = {
        id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr) and _is_text(node.value)
    }  # a string that stands alone: docstrings, of attributes too
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg in {"help", "epilog"}:
            prose.update(id(part) for part in ast.walk(node.value))
    yield from (node for node in ast.walk(tree(path)) if _is_text(node) and id(node) not in prose)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def method_names(folders) -> set[str]:
    """Return the built-in methods' names, those apart that the harness uses in another sense."""
    return {folder.name.removeprefix("pruneboard_") for folder in folders} - VOCABULARY


def test_the_harness_knows_no_method_by_name():
    """No string of its code holds a built-in method's name or its package's."""
    assert {"probmask", "magnitude"} <= method_names(PLUGINS)
    words = re.compile(rf"(?i:\b({'|'.join(sorted(method_names(PLUGINS)))})\b)|\bpruneboard_\w")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path, _ in modules()
        for node in strings(path)
        if words.search(node.value)
    ]
    assert not found


# What starts without torch


def loaded(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which of `HEAVY` it loaded."""
    report = f"\nimport sys\nprint('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_modules_outside_the_list_import_no_torch():
    """Specs, records, boards, reports and the command line are loaded without torch, timm or DeepSpeed."""
    light = [module for _, module in modules() if not within(module, NEEDS_TORCH) and "__" not in module]
    assert {"cli.run", "leaderboard.build", "records.store", "report.page", "sweeps.manifest"} <= set(light)
    assert loaded(f"import pruneboard, {', '.join(f'pruneboard.{module}' for module in light)}") == set()


@pytest.mark.parametrize("place", NEEDS_TORCH)
def test_listed_modules_exist(place):
    """The list of what needs torch names packages and modules that exist."""
    assert any(within(module, (place,)) for _, module in modules())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["list"],
        ["list", "recipes"],
        ["list", "datasets", "--json"],
        ["compare", "--help"],
        ["compare", "no-such-folder"],
        ["show", "no-such-folder"],
        ["verify", "--help"],
        ["verify", "no-such-folder"],
        ["status", "--help"],
        ["status", "no-such-folder"],
        ["sweep", "--help"],
        ["sweep", "no-such-file.toml"],
        ["export", "--help"],
        ["export", "no-such-folder"],
        ["export", "no-such-folder", "--format", "onxx"],
        ["latency", "--help"],
        ["latency", "no-such-folder"],
        ["latency", "no-such-folder", "--engine", "torhc"],
        ["merge", "--help"],
        ["merge", "no-such-folder", "--into", "nowhere"],
        ["new-plugin", "--help"],
        ["new-plugin", "random"],
        ["run", "--method", "magnitud", "--model", "resnet18"],
        ["run", "--method", "magnitude", "--model", "resnet18", "--sparsity", "90"],
        ["run", "--method", "magnitude", "--model", "resnet18", "--recipe", "digit"],
    ],
    ids=" ".join,
)
def test_what_reads_or_refuses_starts_without_torch(arguments):
    """Help, lists, boards and mistyped requests answer without loading torch."""
    assert loaded(f"from pruneboard.cli import invoke\ninvoke({arguments!r})") == set()


def test_boards_are_compared_without_torch(tmp_path):
    """Reading records, ranking and printing them runs on a laptop."""
    code = f"""
import sys
from pathlib import Path
sys.path.append({str(ROOT / "tests" / "support")!r})
import fake_records as records
from pruneboard.cli import invoke
for method in ("dense", "magnitude"):
    for seed in (0, 1):
        sparsity = None if method == "dense" else 0.9
        records.put(Path({str(tmp_path)!r}), records.record(method, sparsity, seed))
assert invoke(["compare", {str(tmp_path)!r}]) == 0
"""
    assert loaded(code) == set()


def test_the_status_of_a_sweep_is_shown_without_torch(tmp_path):
    """`status` reads only the manifest and the run folders."""
    code = f"""
import sys
from pathlib import Path
sys.path.append({str(ROOT / "tests" / "support")!r})
import fake_records as records
from pruneboard.sweeps import manifest
from pruneboard.cli import invoke
made = records.record("dense", None)
records.put(Path({str(tmp_path)!r}), made)
names = dict(dataset="digits", model=made["model"]["name"], track="prune", method="dense", sparsity=None, seed=0)
hashes = made["hash"], "0" * 64
runs = [manifest.ManifestEntry(**names | dict(seed=seed), hash=hashes[seed]) for seed in (0, 1)]
manifest.write({str(tmp_path)!r}, "some", runs, 1)
assert invoke(["status", {str(tmp_path)!r}]) == 0
"""
    assert loaded(code) == set()


def test_records_are_verified_without_torch(tmp_path):
    """Where no weights are, nothing that verification does needs tensors."""
    published = min((ROOT / "results").rglob("run.json")).parent
    code = f"""
from pruneboard.cli import invoke
assert invoke(["verify", {str(published)!r}, "--out", {str(tmp_path)!r}]) == 0
"""
    assert loaded(code) == set()


def test_what_is_looked_for_is_what_gets_loaded():
    """The probe above sees torch where it is: the interface needs it."""
    assert "torch" in loaded("import pruneboard.api")
