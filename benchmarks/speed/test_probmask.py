"""ProbMask: its step compared with two dense passes and with the official formula, and its relaxed mask alone."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch
from cases import batch_of, plan, training
from floor import Floor, floor
from official import Official, relaxed_mask
from rows import Row

from pruneboard import models
from pruneboard.training import loop
from pruneboard_probmask.gate import relaxed

STATES = {
    "undecided": (0.32, (0.0, 0.0), "every probability between 0 and 1"),
    "middle": (0.5, (0.6, 0.08), "half-way: .6 of the probabilities at 0, .08 at 1"),
}
"""Name -> fraction of the search; shares of probabilities that are 0 and 1; description."""


def state_of(run, name, seed=0):
    """Return typical probabilities of a search to .9; those that are not 0 or 1 are uniform between .02 and .98."""
    generator = torch.Generator().manual_seed(seed)
    zeros, ones = STATES[name][1]
    found = []
    for layer in run.layers:
        place = torch.rand(layer.dense.shape, generator=generator)
        s = 0.02 + 0.96 * torch.rand(layer.dense.shape, generator=generator)
        found.append(torch.where(place < zeros, 0.0, torch.where(place >= 1 - ones, 1.0, s)))
    return found


def restore(run, probabilities):
    """Restore the probabilities of `run`; its gates read them in `before_step`."""
    with torch.no_grad():
        for layer, probability in zip(run.layers, probabilities, strict=True):
            layer.gate.probability.copy_(probability)


def step_at(run, fraction):
    """Return the step number at a fraction of the search."""
    return round(fraction * run.budget.harden_step)


@pytest.mark.parametrize("name", STATES)
def test_step_beside_two_dense_passes(versus, rounds, name):
    """(b) The overhead of sampling masks, their gradients, Adam and the projection on two passes and a step."""
    model, batch = "resnet32_cifar", 128
    dense, run = (training(method, model, batch=batch) for method in ("dense", "probmask"))
    dense.forward_passes = 2
    batches = batch_of(run)
    probabilities, step = state_of(run, name), step_at(run, STATES[name][0])
    row = Row(
        section="b",
        what=f"probmask, {model}, batch {batch}, {STATES[name][2]}",
        against="two dense passes and one optimizer step",
        bound=1.05,
        note="sparsity .9; reported for the official code, on a ResNet-20: 1.14x",
    )
    versus(
        row,
        lambda: loop.train_step(run, step, batches),
        lambda: loop.train_step(dense, step, batches),
        rounds=rounds(6, 1),
        before=lambda: restore(run, probabilities),
    )
    run.engine.close()
    dense.engine.close()


def official_for(run, model, stem):
    """Return the official search for the same network with the same initial weights."""
    network = models.build_model(plan(model, stem), init="random", seed=0)
    search = Official(network, [module for _, module in models.gated_layers(network)])
    assert len(search.gates) == len(run.layers)
    return search


def budget_at(run, step):
    """Return the budget K(t), or None before the projections begin."""
    share = run.pruner.kept_share(run.progress(step).fraction)
    n, k = sum(layer.dense.numel() for layer in run.layers), sum(layer.keep for layer in run.layers)
    return None if share == 1.0 else k + (n - k) * share


@pytest.mark.parametrize(
    ("model", "stem", "bound", "count"),
    [("resnet18", "stock", 2.0, 9), ("resnet50", "stock", 2.0, 5), ("resnet18", "small", None, 5)],
)
def test_undecided_step_beside_the_official_formula(versus, rounds, model, stem, bound, count):
    """The whole step while no probability is 0 or 1.

    Per weight, ours makes one random draw, takes one logarithm instead of four, and builds no autograd graph.
    """
    run = training("probmask", model, batch=8, stem=stem)
    search = official_for(run, model, stem)
    batches = batch_of(run)
    [(images, labels)] = batches
    probabilities, step = state_of(run, "undecided"), step_at(run, STATES["undecided"][0])
    heat = run.pruner.inverse_temperature(run.progress(step).fraction)

    def before():
        restore(run, probabilities)
        search.take(probabilities, heat)

    k = budget_at(run, step)
    row = Row(
        section="b",
        what=f"probmask, {model}, {stem} stem, 32 px, batch 8, no probability 0 or 1",
        against="the official formula in plain torch",
        kind="gain",
        bound=bound,
        note="two passes, SGD, Adam and projection on both sides",
    )
    versus(
        row,
        lambda: loop.train_step(run, step, batches),
        lambda: search.step(images, labels, k),
        rounds=rounds(count, 1),
        before=before,
    )
    run.engine.close()


class Search:
    """A real search to .9. Our run trains, and the official one is set to the same state."""

    STATES = 8

    def __init__(self, model: str, repeats: int) -> None:
        """Build both sides; `STATES` evenly spaced states of the search are timed `repeats` times each."""
        self.run = training("probmask", model, batch=8, stem="stock")
        self.official = official_for(self.run, model, "stock")
        self.batches = batch_of(self.run)
        self.visits = [step_at(self.run, (index + 0.5) / self.STATES) for index in range(self.STATES)]
        self.repeats, self.calls, self.step = repeats, 0, 0
        self.kept: list[torch.Tensor] = []

    def before(self) -> None:
        """Move both sides to the state of the next call; runs before each side of each round, recorded or not."""
        visit = self.visits[max(0, self.calls - 2) // (2 * self.repeats)]
        self.calls += 1
        self.go_to(visit)
        restore(self.run, self.kept)
        self.official.take(self.kept, self.run.pruner.inverse_temperature(self.run.progress(visit).fraction))

    def go_to(self, visit: int) -> None:
        """Train up to step `visit`, and store the probabilities."""
        if self.kept and self.step == visit:
            return
        while self.step < visit:
            self.ours()
            self.step += 1
        self.kept = [layer.gate.probability.detach().clone() for layer in self.run.layers]

    def ours(self) -> None:
        """Take a step with our code."""
        loop.train_step(self.run, self.step, self.batches)

    def theirs(self) -> None:
        """Take a step with the official formula."""
        [(images, labels)] = self.batches
        self.official.step(images, labels, budget_at(self.run, self.step))


@pytest.mark.parametrize(("model", "repeats"), [("resnet18", 3), ("resnet50", 2)])
def test_run_to_90_percent_beside_the_official_formula(versus, rounds, model, repeats):
    """The average over a real search of 94 steps, timed on both sides at eight evenly spaced states."""
    search = Search(model, rounds(repeats, 1))
    row = Row(
        section="b",
        what=f"probmask, {model}, stock stem, 32 px, batch 8, a search to .9",
        against="the official formula in plain torch",
        kind="gain",
        bound=3.0,
        note=f"a real search of {search.run.budget.harden_step} steps, timed at {search.STATES} evenly spaced states",
        states=search.STATES,
    )
    versus(row, search.ours, search.theirs, rounds=search.STATES * search.repeats, before=search.before)
    search.run.engine.close()


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_floor_of_a_run_to_90_percent(benchmark, rounds, model):
    """The same search, state by state, compared with the lower bound from its parts on this machine."""
    clock, repeats = benchmark._timer, rounds(5, 2)
    search, dense = Search(model, repeats), training("dense", model, batch=8, stem="stock")
    dense.forward_passes = 2
    taken: list[float] = []
    floors: list[Floor] = []

    def visit_all():
        for visit in search.visits:
            search.go_to(visit)
            steps = [clocked(clock, search.ours, lambda: restore(search.run, search.kept)) for _ in range(repeats)]
            network = [clocked(clock, lambda: loop.train_step(dense, 1, search.batches)) for _ in range(repeats)]
            restore(search.run, search.kept)
            search.run.pruner.before_step(search.run.layers, search.run.progress(visit))
            taken.append(statistics.median(steps))
            floors.append(
                floor(
                    [layer.gate for layer in search.run.layers],
                    search.run.forward_passes,
                    statistics.median(network),
                    clock,
                    projects=budget_at(search.run, visit) is not None,
                )
            )

    benchmark.pedantic(visit_all, rounds=1)
    parts = [dataclasses.asdict(found) for found in floors]
    benchmark.extra_info |= {
        "section": "floor",
        "what": f"probmask, {model}, stock stem, 32 px, batch 8, a search to .9",
        "seconds": sum(taken),
        **{name: sum(part[name] for part in parts) for name in parts[0]},
    }
    for run in (search.run, dense):
        run.engine.close()


def clocked(clock, call, before=lambda: None):
    """Return the duration of a call in seconds."""
    before()
    start = clock()
    call()
    return clock() - start


@pytest.mark.parametrize("n", [2_000_000, 11_000_000])
def test_relaxed_mask(versus, rounds, n):
    """Forward and backward pass of one relaxed mask, with every probability strictly between 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, generator=generator).requires_grad_()
    s = torch.rand(n, generator=generator).clamp(0.01, 0.99).requires_grad_()

    def both(masked):
        gradients = torch.autograd.grad(masked.sum(), (weight, s))
        assert len(gradients) == 2

    row = Row(
        section="b",
        what=f"one relaxed mask, {n:,} weights, forward and backward",
        against="the official formula in plain torch",
        kind="gain",
        note="no probability 0 or 1",
    )
    versus(
        row,
        lambda: both(relaxed(weight, s, 1.5, generator)),
        lambda: both(weight * relaxed_mask(s, 1.5, generator)),
        rounds=rounds(15),
    )
