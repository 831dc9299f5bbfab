"""(f) The fixed cost of a run apart from its steps: imports, engine start, and finish. There are no bounds."""

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
from pruneboard.experiment.listeners import NullListener
from pruneboard.testing.trial import KeepAll, Trial


def started(code: str) -> None:
    """Run Python code in a new interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_imports(versus, rounds):
    """The imports of a run, including the engine, compared with those of a bare loop on a timm model."""
    row = Row(section="f", what="imports of a run", against="import torch, timm")
    versus(
        row,
        lambda: started("import pruneboard.experiment.lifecycle, deepspeed"),
        lambda: started("import torch, timm"),
        rounds=rounds(5),
    )


def test_engine_start(versus, rounds):
    """Gates, optimizer and DeepSpeed for a network of 1,568 weights, compared with a network and torch's SGD."""
    trial = Trial(KeepAll(sparsity=0.0), "prune")

    def ours():
        trial.build().engine.close()

    def bare():
        torch.optim.SGD(trial.network().parameters(), lr=0.1, momentum=0.9)

    versus(Row(section="f", what="engine start", against="a network and torch's SGD"), ours, bare, rounds=rounds(7))


class Phases(NullListener):
    """Records the start time of each phase of a run."""

    def __init__(self) -> None:
        """Start the clock."""
        self.began = {"start": time.perf_counter()}

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """Record the start of a phase under the first word of its message."""
        del total
        if not done:
            self.began[message.partition(" ")[0].rstrip(":")] = time.perf_counter()


def test_run_of_two_steps(versus, rounds, benchmark, tmp_path):
    """A whole run of two steps in this process and its parts, compared with the same work in a hand-written loop."""
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
        pixels = data.train.images.stored.float().div(255)  # stored as channels last
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
