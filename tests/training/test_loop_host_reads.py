"""Reading a number from an accelerator waits for it: which methods do so in an ordinary step."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pruneboard import registry
from pruneboard.data import train_batches
from pruneboard.testing.trial import Trial
from pruneboard.training import loop

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""Operations that copy a number to the host: `float(x)`, `int(x)`, `bool(x)`, and shapes that depend on values."""


class CountedReads(TorchDispatchMode):
    """Counts the operations in READS."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function in READS
        return function(*args, **(kwargs or {}))


def reads_of_a_step(method, track, step, options=None):
    """Return how many numbers are read by the host in step `step` of a training."""
    sparsity = None if method == "dense" else 0.9
    run = Trial(pruner=registry.build(registry.find(method), sparsity, options or {}), track=track).build()
    try:
        loop.prune_before_training(run)
        batches = iter(train_batches(run.dataset, run.plan, epoch=0))
        for earlier in range(step):
            loop.train_step(run, earlier, next(batches))
        with CountedReads() as counted:
            loop.train_step(run, step, next(batches))
    finally:
        run.engine.close()
    return counted.reads


@pytest.mark.parametrize("method", ["dense", "random", "magnitude", "gmp", "snip", "synflow"])
def test_a_step_reads_no_number(method):
    """Clipping, optimizer, gates and hooks read no number in a step that makes no mask."""
    assert reads_of_a_step(method, "prune", step=3) == 0


def test_str_reads_one_number_per_step():
    """STR decides by whether more is pruned than the budget allows, which is one number per step."""
    assert reads_of_a_step("str", "prune", step=3) == 1
