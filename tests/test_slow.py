"""The long commands, exactly as users type them. Minutes each: `tox -e slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CIFAR10 = os.environ.get("PRUNEBOARD_CIFAR10", "")
"""A folder with CIFAR-10 as `train/<class>/*` and `test/<class>/*`."""


def pruneboard(folder, arguments):
    """Run one command in `folder` and return what it printed."""
    command = [sys.executable, "-m", "pruneboard", *arguments.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def records(folder):
    """Every record below `folder`."""
    return [json.loads(path.read_text()) for path in Path(folder).rglob("run.json")]


@pytest.mark.parametrize(("model", "at_least"), [("resnet50", 0.90), ("resnet18", 0.95)])
def test_the_main_command(tmp_path, model, at_least):
    """One command, no other flag, gives a believable network: 90 % sparse and right on nearly all digits."""
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


@pytest.mark.skipif(not CIFAR10, reason="PRUNEBOARD_CIFAR10 names no folder with CIFAR-10 as train/ and test/ trees")
def test_real_images(tmp_path):
    """All four methods train on real CIFAR-10 from a folder, and `compare` shows all four."""
    common = f"--model resnet20_cifar --dataset folder --data-dir {CIFAR10} --epochs 3 --limit-train 10000"
    pruneboard(tmp_path, f"run --method dense {common}")
    for method in ("probmask", "magnitude", "random"):
        pruneboard(tmp_path, f"run --method {method} {common} --sparsity 0.95")
    out = pruneboard(tmp_path, "compare results/")
    assert all(method in out for method in ("dense", "probmask", "magnitude", "random"))
    assert all(r["metrics"]["test"]["count"] == 10_000 for r in records(tmp_path / "results"))
