"""Commands that only read records or refuse their arguments start without torch."""

from __future__ import annotations

import pytest

from loading import loaded
from project import ROOT


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
def test_commands_that_do_not_train_import_no_torch(arguments):
    """Help, lists, missing records and invalid arguments are answered without importing torch."""
    assert loaded(f"from pruneboard.cli import invoke\ninvoke({arguments!r})") == set()


def test_compare_imports_no_torch(tmp_path):
    """`compare` reads, ranks and prints records without torch, so that it runs on any laptop."""
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


def test_status_imports_no_torch(tmp_path):
    """`status` reads the manifest and the run folders without torch."""
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


def test_verify_imports_no_torch_without_weights(tmp_path):
    """`verify` needs no torch for a record without weights."""
    published = min((ROOT / "results").rglob("run.json")).parent
    code = f"""
from pruneboard.cli import invoke
assert invoke(["verify", {str(published)!r}, "--out", {str(tmp_path)!r}]) == 0
"""
    assert loaded(code) == set()


def test_an_import_of_torch_is_detected():
    """The helper reports torch for the plugin interface, which imports it."""
    assert "torch" in loaded("import pruneboard.api")
