"""ProbMask: its step beside two dense passes and beside the official formula, and its relaxed mask alone."""

from __future__ import annotations

import pytest
import torch
from cases import batch_of, plan, training
from official import Official, relaxed_mask
from rows import Row

from pruneboard import models, train
from pruneboard_probmask.gate import relaxed

STATES = {
    "undecided": (0.32, (0.0, 0.0), "every probability between 0 and 1"),
    "middle": (0.5, (0.6, 0.08), "half-way: .6 of the probabilities at 0, .08 at 1"),
}
"""Name -> fraction of the search; shares of probabilities that are 0 and 1; in words."""


def state_of(run, name, seed=0):
    """Return probabilities as a search to .9 has them: the rest of a state is uniform between .02 and .98."""
    generator = torch.Generator().manual_seed(seed)
    zeros, ones = STATES[name][1]
    found = []
    for layer in run.layers:
        place = torch.rand(layer.dense.shape, generator=generator)
        s = 0.02 + 0.96 * torch.rand(layer.dense.shape, generator=generator)
        found.append(torch.where(place < zeros, 0.0, torch.where(place >= 1 - ones, 1.0, s)))
    return found


def restore(run, probabilities):
    """Put `run` back into a state; the gates look at it in `before_step`."""
    with torch.no_grad():
        for layer, probability in zip(run.layers, probabilities, strict=True):
            layer.gate.probability.copy_(probability)


def step_at(run, fraction):
    """Return the step at a fraction of the search."""
    return round(fraction * run.budget.harden_step)


@pytest.mark.parametrize("name", STATES)
def test_step_beside_two_dense_passes(versus, rounds, name):
    """(b) What drawing masks, their gradients, Adam and the projection add to two passes and a step."""
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
        note="sparsity .9; the official code: 1.14, on a ResNet-20 (bound and figure are the issue's)",
    )
    versus(
        row,
        lambda: train.train_step(run, step, batches),
        lambda: train.train_step(dense, step, batches),
        rounds=rounds(4, 1),
        before=lambda: restore(run, probabilities),
    )
    run.engine.close()
    dense.engine.close()


def official_for(run, model, stem):
    """Return the official search on the same network with the same initial weights."""
    network = models.build_model(plan(model, stem), init="random", seed=0)
    search = Official(network, [module for _, module in models.gated_layers(network)])
    assert len(search.gates) == len(run.layers)
    return search


def budget_at(run, step):
    """Return K(t), or None before the projections begin."""
    share = run.pruner.kept_share(run.progress(step).fraction)
    n, k = sum(layer.dense.numel() for layer in run.layers), sum(layer.keep for layer in run.layers)
    return None if share == 1.0 else k + (n - k) * share


@pytest.mark.parametrize(
    ("model", "stem", "bound", "count"),
    [("resnet18", "stock", 2.0, 9), ("resnet50", "stock", 2.0, 5), ("resnet18", "small", None, 5)],
)
def test_undecided_step_beside_the_official_formula(versus, rounds, model, stem, bound, count):
    """The whole step while no probability is 0 or 1: one draw and one logarithm for four, and no graph."""
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
        lambda: train.train_step(run, step, batches),
        lambda: search.step(images, labels, k),
        rounds=rounds(count, 1),
        before=before,
    )
    run.engine.close()


@pytest.mark.parametrize(("model", "repeats"), [("resnet18", 2), ("resnet50", 1)])
def test_run_to_90_percent_beside_the_official_formula(versus, rounds, model, repeats):
    """The average over a real search of 94 steps: both sides are timed at eight of its states, evenly spaced."""
    run = training("probmask", model, batch=8, stem="stock")
    search = official_for(run, model, "stock")
    batches = batch_of(run)
    [(images, labels)] = batches
    repeats, states = rounds(repeats, 1), 8
    visits = [step_at(run, (index + 0.5) / states) for index in range(states)]
    clock = {"step": 0, "call": 0}
    kept: list[torch.Tensor] = []

    def before():
        # Called before each side of each round, the unrecorded first one included.
        visit = visits[max(0, clock["call"] - 2) // (2 * repeats)]
        clock["call"] += 1
        while clock["step"] < visit:
            train.train_step(run, clock["step"], batches)
            clock["step"] += 1
            kept.clear()
        kept[:] = kept or [layer.gate.probability.detach().clone() for layer in run.layers]
        restore(run, kept)
        search.take(kept, run.pruner.inverse_temperature(run.progress(visit).fraction))

    row = Row(
        section="b",
        what=f"probmask, {model}, stock stem, 32 px, batch 8, a search to .9",
        against="the official formula in plain torch",
        kind="gain",
        bound=3.0,
        note=f"a real search of {run.budget.harden_step} steps, timed at {states} evenly spaced states",
        states=states,
    )
    versus(
        row,
        lambda: train.train_step(run, clock["step"], batches),
        lambda: search.step(images, labels, budget_at(run, clock["step"])),
        rounds=states * repeats,
        before=before,
    )
    run.engine.close()


@pytest.mark.parametrize("n", [2_000_000, 11_000_000])
def test_relaxed_mask(versus, rounds, n):
    """Forward and backward of one relaxed mask while every probability is strictly between 0 and 1."""
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
