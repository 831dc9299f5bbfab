"""The training step, compared with a bare PyTorch loop, and the step of each method, compared with the dense step.

Both sides get the same augmented batches, already on the device; the input pipeline is measured separately.
"""

from __future__ import annotations

import pytest
import torch
from cases import Bare, batch_of, bring, training
from rows import Row

from pruneboard.api import Mask
from pruneboard.training import loop

MODEL, BATCH = "resnet32_cifar", 128

METHODS = {
    "magnitude": (0.9, {}, 1.05),
    "gmp": (0.42, {}, 1.05),
    "random": (0.5, {}, 1.05),
    "snip": (0.5, {}, 1.05),
    "synflow": (0.5, {"rounds": 2}, 1.05),
    "rigl": (0.41, {}, 1.05),
    "str": (0.5, {}, 1.10),
    "edge-popup": (0.5, {}, 1.25),
}
"""Method -> fraction of the budget (between two mask updates), options, and bound."""


@pytest.mark.parametrize(
    ("model", "batch", "bound", "count"), [(MODEL, BATCH, 1.05, 7), ("resnet8_cifar", 16, None, 200)]
)
def test_dense_step_beside_a_bare_loop(versus, rounds, model, batch, bound, count):
    """(a) The overhead of hooks, gates without effect and DeepSpeed per step."""
    run, bare = training("dense", model, batch=batch), Bare(model, batch)
    batches = batch_of(run)
    [(images, labels)] = batches
    first = [loop.train_step(run, 0, batches), bare.step(0, images, labels)]
    torch.testing.assert_close(*first)  # both sides do the same work
    row = Row(
        section="a",
        what=f"step, {model}, batch {batch}",
        against="a bare PyTorch loop",
        bound=bound,
        note="same weights, batches on the device, fused SGD, schedule, clip and loss",
    )
    versus(row, lambda: loop.train_step(run, 1, batches), lambda: bare.step(1, images, labels), rounds=rounds(count, 1))
    run.engine.close()


@pytest.mark.parametrize("method", METHODS)
def test_step_of_a_method(versus, rounds, method):
    """(b) The overhead of a method on a dense step, between its mask updates."""
    fraction, options, bound = METHODS[method]
    track = "supermask" if method == "edge-popup" else "prune"
    dense = training("dense", MODEL, batch=BATCH)
    run = training(method, MODEL, batch=BATCH, track=track, **options)
    batches = batch_of(run)
    step = round(fraction * run.budget.total)
    bring(run, step)
    masks = [layer.gate.keep for layer in run.layers if isinstance(layer.gate, Mask)]
    before = [mask._version for mask in masks]
    row = Row(
        section="b",
        what=f"{method}, {MODEL}, batch {BATCH}",
        against="a dense step",
        bound=bound,
        note=f"sparsity .9, {track} track, at {fraction:.0%} of the budget, no mask update",
    )
    versus(
        row,
        lambda: loop.train_step(run, step, batches),
        lambda: loop.train_step(dense, step, batches),
        rounds=rounds(6, 1),
    )
    assert [mask._version for mask in masks] == before
    run.engine.close()
    dense.engine.close()
