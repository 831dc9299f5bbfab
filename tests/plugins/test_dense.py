"""The dense control: an identity gate, no pruned position, and no sparsity option."""

from __future__ import annotations

import pytest
import torch

from pruneboard.api import Traits
from pruneboard_dense import Dense
from runs import run


def test_the_gate_returns_the_weight_itself():
    """The gate adds no operation and has no state, so that training is plain dense training."""
    weight = torch.tensor([1.0, 0.0, -2.0])
    gate = Dense().gate(weight)
    assert gate(weight) is weight
    assert not gate.state_dict()


def test_weights_that_are_zero_count_as_kept():
    """Every position is kept, even where a weight happens to be 0.0."""
    weight = torch.tensor([[1.0, 0.0], [-0.0, 2.0]])
    kept = Dense().gate(weight).kept(weight)
    assert kept.dtype == torch.bool
    assert kept.shape == weight.shape
    assert kept.all()


def test_traits():
    """It is the dense control, on the track `prune` only."""
    assert Dense().traits("prune") == Traits(control="dense")
    assert Dense.tracks == {"prune"}


def test_a_sparsity_is_rejected():
    """A sparsity other than 0 raises a ValueError that says to leave it out."""
    with pytest.raises(ValueError, match=r"leave --sparsity out; found 0\.5"):
        Dense(sparsity=0.5)
    assert Dense().sparsity == 0


def test_a_real_run_keeps_every_weight(tmp_path):
    """The record of a real run counts all prunable weights as kept, and the cost of plain training."""
    made = run(tmp_path, "dense", None)
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"]
    assert made["cost"]["relative_train_macs"] == 1
