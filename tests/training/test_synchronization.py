"""On an accelerator to look at a number is to wait for it: which methods do so in an ordinary step."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pruneboard import registry
from pruneboard.data import train_batches
from pruneboard.testing.trial import Trial
from pruneboard.training import loop

LOOKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""What ends in a copy to the host: `float(x)`, `int(x)`, `bool(x)`, and shapes that depend on values."""


class Counted(TorchDispatchMode):
    """Counts them."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.looks += function in LOOKS
        return function(*args, **(kwargs or {}))


def looks_of_a_step(method, track, step, options=None):
    """How often numbers are looked at in this step of a training."""
    sparsity = None if method == "dense" else 0.9
    run = Trial(pruner=registry.build(registry.find(method), sparsity, options or {}), track=track).build()
    try:
        loop.prune_before_training(run)
        batches = iter(train_batches(run.dataset, run.plan, epoch=0))
        for earlier in range(step):
            loop.train_step(run, earlier, next(batches))
        with Counted() as counted:
            loop.train_step(run, step, next(batches))
    finally:
        run.engine.close()
    return counted.looks


@pytest.mark.parametrize("method", ["dense", "random", "magnitude", "gmp", "snip", "synflow"])
def test_a_step_waits_for_nothing(method):
    """Clipping, optimizer, gates and hooks look at no number, where no mask is made in the step."""
    assert looks_of_a_step(method, "prune", step=3) == 0


def test_str_waits_once_a_step():
    """Whether more is pruned than the budget allows decides what STR does next: one number a step."""
    assert looks_of_a_step("str", "prune", step=3) == 1
