"""Commands that take minutes each, exactly as users type them (`tox -e slow`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from pruneboard.leaderboard import folders

pytestmark = pytest.mark.slow

CIFAR10 = os.environ.get("PRUNEBOARD_CIFAR10", "")
"""A folder with CIFAR-10 as `train/<class>/*` and `test/<class>/*`."""


def pruneboard(folder, arguments):
    """Run one command in `folder`, and return its standard output."""
    command = [sys.executable, "-m", "pruneboard", *arguments.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def records(folder):
    """Return every record below `folder`."""
    return [json.loads(path.read_text()) for path in Path(folder).rglob("run.json")]


@pytest.mark.parametrize(("model", "at_least"), [("resnet50", 0.90), ("resnet18", 0.95)])
def test_the_main_command_gives_an_accurate_network(tmp_path, model, at_least):
    """One command without further options gives a network that is 90 % sparse and right on nearly all digits."""
    pruneboard(tmp_path, f"run --method probmask --model {model} --sparsity 0.9")
    (made,) = records(tmp_path)
    assert made["metrics"]["test"]["top1"] >= at_least
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"] - round(0.9 * made["sparsity"]["prunable"])


def test_methods_are_above_the_floor(tmp_path):
    """At .98 on ResNet-18, ProbMask and magnitude are above random in each of three seeds, by a point on average."""
    for method in ("probmask", "magnitude", "random"):
        pruneboard(tmp_path, f"run --method {method} --model resnet18 --sparsity 0.98 --seeds 3")
    top1 = {(r["method"]["name"], r["seed"]): r["metrics"]["test"]["top1"] for r in records(tmp_path)}
    for method in ("probmask", "magnitude"):
        above = [top1[method, seed] - top1["random", seed] for seed in range(3)]
        assert min(above) > 0
        assert sum(above) / 3 > 0.01


PRUNING = ["random", "magnitude", "gmp", "str", "probmask", "snip", "synflow"]
WITH_TRACKS = [*((method, "prune") for method in PRUNING)]
WITH_TRACKS += [(method, "supermask") for method in ("random", "probmask", "edge-popup")]
needs_cifar10 = pytest.mark.skipif(
    not CIFAR10, reason="PRUNEBOARD_CIFAR10 names no folder with CIFAR-10 as train/ and test/ trees"
)


def assert_exact(results, method, track, **changes):
    """Assert that short runs at four sparsities keep exactly n - round(sparsity n) positions, and no other non-zero."""
    for sparsity in (0.5, 0.9, 0.98, 0.999):
        made = runs.run(results, method, sparsity, track=track, **changes)["sparsity"]
        assert made["kept"] == made["prunable"] - round(sparsity * made["prunable"])
        assert made["nonzero"] + made["kept_zero"] == made["kept"]


@pytest.mark.parametrize(("method", "track"), WITH_TRACKS)
def test_every_method_keeps_exactly_its_budget_on_digits(tmp_path, method, track):
    """The count is exact at .5, .9, .98 and .999, on the whole of digits."""
    assert_exact(tmp_path, method, track, limit_train=None, overrides={"epochs": 1, "batch_size": 64})


@needs_cifar10
@pytest.mark.parametrize(("method", "track"), WITH_TRACKS)
def test_every_method_keeps_exactly_its_budget_on_cifar10(tmp_path, method, track):
    """The count is exact at .5, .9, .98 and .999, on real CIFAR-10."""
    overrides = {"epochs": 1, "batch_size": 64}
    assert_exact(tmp_path, method, track, dataset="folder", data_dir=CIFAR10, limit_train=1000, overrides=overrides)


@pytest.mark.parametrize("dataset", ["digits", pytest.param("folder", marks=needs_cifar10)])
def test_emerging_sparsity_is_listed_at_its_measured_value(tmp_path, dataset):
    """STR without a target is off target and not ranked, and its row is at the measured share of zeros."""
    place = {"data_dir": CIFAR10} if dataset == "folder" else {}
    made = runs.run(tmp_path, "str", 0.9, options={"mode": "faithful"}, dataset=dataset, **place)
    (board,) = folders.compare([tmp_path])
    (row,) = board.rows
    assert row.off_target
    assert row.point == made["sparsity"]["measured"]
    assert row.point == pytest.approx(1 - made["sparsity"]["nonzero"] / made["sparsity"]["prunable"])


@pytest.mark.parametrize("method", ["edge-popup", "probmask"])
def test_supermasks_are_far_above_a_random_mask(tmp_path, method):
    """On digits at .5, each of three seeds is 20 points above the random mask; shuffled, it falls back to that."""
    common = "--track supermask --model test_resnet --sparsity 0.5 --seeds 3"
    pruneboard(tmp_path, f"run --method random {common}")
    pruneboard(tmp_path, f"run --method {method} {common}")
    pruneboard(tmp_path, f"run --method {method} --ablation shuffled-mask {common}")
    made = records(tmp_path)
    top1 = {(r["method"]["name"], r["method"]["ablation"], r["seed"]): r["metrics"]["test"]["top1"] for r in made}
    for seed in range(3):
        assert top1[method, None, seed] > top1["random", None, seed] + 0.20
        assert top1[method, "shuffled-mask", seed] < top1["random", None, seed] + 0.05
    rows = ((method, "shuffled-mask"), ("random", None))
    shuffled, drawn = (sum(top1[(*row, seed)] for seed in range(3)) / 3 for row in rows)
    assert abs(shuffled - drawn) < 0.05
    starts = {(r["seed"], r["model"]["initial_sha256"]) for r in made}
    assert len(starts) == 3


@needs_cifar10
def test_methods_train_on_cifar10_from_a_folder(tmp_path):
    """The methods train on real CIFAR-10 from a folder, and `compare` shows all of them."""
    common = f"--model resnet20_cifar --dataset folder --data-dir {CIFAR10} --epochs 3 --limit-train 10000"
    pruneboard(tmp_path, f"run --method dense {common}")
    for method in PRUNING:
        pruneboard(tmp_path, f"run --method {method} {common} --sparsity 0.95")
    out = pruneboard(tmp_path, "compare results/")
    assert all(method in out for method in ("dense", *PRUNING))
    assert all(r["metrics"]["test"]["count"] == 10_000 for r in records(tmp_path / "results"))
