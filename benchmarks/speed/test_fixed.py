"""(f) What a run costs beside its steps: imports, the start of the engine, and the finish. No bounds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import torch
from cases import images, plan
from rows import Row
from torch.nn import functional

import pruneboard
from pruneboard import models
from pruneboard.experiment.listeners import Silent
from pruneboard.testing.bench import Bench, KeepsAll


def started(code: str) -> None:
    """Run some Python in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_imports(versus, rounds):
    """What a run imports, the engine included, beside what a bare loop on a timm model does."""
    row = Row(section="f", what="imports of a run", against="import torch, timm")
    versus(
        row,
        lambda: started("import pruneboard.experiment.lifecycle, deepspeed"),
        lambda: started("import torch, timm"),
        rounds=rounds(5),
    )


def test_engine_start(versus, rounds):
    """Gates, optimizer and DeepSpeed around a network of 1,568 weights, beside a network and torch's SGD."""
    bench = Bench(KeepsAll(sparsity=0.0), "prune")

    def ours():
        bench.ready().engine.close()

    def bare():
        torch.optim.SGD(bench.network().parameters(), lr=0.1, momentum=0.9)

    versus(Row(section="f", what="engine start", against="a network and torch's SGD"), ours, bare, rounds=rounds(7))


class Phases(Silent):
    """Notes when each phase of a run begins."""

    def __init__(self) -> None:
        """Start the clock."""
        self.began = {"start": time.perf_counter()}

    def on_phase(self, message: str) -> None:
        """Note it by its first word."""
        self.began[message.partition(" ")[0].rstrip(":")] = time.perf_counter()


def test_run_of_two_steps(versus, rounds, benchmark, tmp_path):
    """A whole run of two steps in this process, its parts, and the same steps and evaluation by hand."""
    overrides = {"epochs": 1, "batch_size": 32, "warmup_epochs": 0}
    spec = pruneboard.RunSpec(
        method="dense",
        model="test_resnet",
        overrides=overrides,
        limit_train=71,
        device="cpu",
        results=str(tmp_path / "results"),
    )
    parts: list[dict[str, float]] = []

    def ours():
        from pruneboard.experiment import lifecycle

        phases = Phases()
        lifecycle.run(spec, phases)
        began, end = phases.began, time.perf_counter()
        parts.append(
            {
                "data, network, engine, steps": began["hardening"] - began["start"],
                "hardening and statistics": began["evaluating"] - began["hardening"],
                "fold, audit, evaluation, record": end - began["evaluating"],
            }
        )

    data = images(64, classes=10)
    test = images(1797 // 5)

    def bare():
        network = models.build_model(plan("test_resnet", "stock"), init="random", seed=0)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        pixels = data.train.images.stored.float().div(255)  # channels last, as they are stored
        for part in range(2):
            chunk = slice(32 * part, 32 * part + 32)
            optimizer.zero_grad()
            functional.cross_entropy(network(pixels[chunk]), data.train.labels[chunk]).backward()
            optimizer.step()
        with torch.no_grad():
            network.eval()(test.train.images.stored.float().div(255))
        torch.save(network.state_dict(), tmp_path / "bare.pt")

    row = Row(
        section="f",
        what="a run of two steps, imports done",
        against="two steps, an evaluation and a saved network by hand",
        note="test_resnet on digits",
    )
    versus(row, ours, bare, rounds=rounds(5), before=lambda: shutil.rmtree(tmp_path / "results", ignore_errors=True))
    benchmark.extra_info["parts"] = {name: sorted(part[name] for part in parts)[len(parts) // 2] for name in parts[0]}
