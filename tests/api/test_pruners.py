"""Base classes of pruners: checked options, default hooks, and masks that harden."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from api_cases import layer, progress
from pruneboard.api import GateOptimizer, Mask, MaskPruner, Pruner, Traits
from pruneboard.scores import budget, set_masks, top_k


@dataclass(frozen=True, kw_only=True)
class Magnitude(MaskPruner):
    """The example of the package docstring: the largest weights at `harden_step`."""

    amount: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.amount < 1:
            raise ValueError("amount must be 1 or more")

    def before_step(self, layers, at):
        if at.step == at.harden_step:
            set_masks(layers, top_k([one.dense.abs() for one in layers], budget(layers)))


def unused_validation() -> float:
    """Fail: the method must not validate."""
    raise AssertionError


# Options


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=40)
def test_every_fraction_below_one_is_a_sparsity(sparsity):
    """A sparsity in [0, 1) is accepted and stored unchanged."""
    assert Magnitude(sparsity=sparsity).sparsity == sparsity


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, math.nan, math.inf])
def test_other_sparsities_are_errors_with_the_value(sparsity):
    """The message says what a sparsity must be and what was found."""
    with pytest.raises(ValueError, match=rf"sparsity must be a fraction of zeros in \[0, 1\); found {sparsity}$"):
        Magnitude(sparsity=sparsity)


def test_a_subclass_checks_its_own_options_too():
    """Both checks apply: that of the base class and that of the subclass."""
    with pytest.raises(ValueError, match="amount must be 1 or more"):
        Magnitude(sparsity=0.5, amount=0)
    with pytest.raises(ValueError, match="sparsity must be"):
        Magnitude(sparsity=2.0, amount=0)


def test_options_are_keyword_only_and_frozen():
    """A pruner is configuration: it is built by name and cannot change."""
    with pytest.raises(TypeError):
        Magnitude(0.5)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Magnitude(sparsity=0.5).amount = 2  # type: ignore[misc]


def test_pruners_with_equal_options_are_equal():
    """Equality and hash follow the options."""
    assert Magnitude(sparsity=0.5) == Magnitude(sparsity=0.5) != Magnitude(sparsity=0.5, amount=2)
    assert hash(Magnitude(sparsity=0.5)) == hash(Magnitude(sparsity=0.5))


def test_only_the_gate_must_be_defined():
    """`Pruner` is abstract in `gate` alone."""
    assert Pruner.__abstractmethods__ == {"gate"}
    with pytest.raises(TypeError, match="gate"):
        Pruner(sparsity=0.5)


# Default hooks


def test_default_hooks_change_nothing():
    """Without overriding, a pruner declares default traits, trains no gate parameter and reports no numbers."""

    class Plain(Pruner[Mask]):
        def gate(self, weight):
            return Mask(weight)

    pruner, layers, at = Plain(sparsity=0.5), [layer()], progress(0)
    before = layers[0].dense.detach().clone()
    assert pruner.traits("prune") == Traits()
    assert pruner.gate_optimizer(100) is None
    assert pruner.before_step(layers, at) is None
    assert pruner.after_step(layers, at) is None
    assert pruner.harden(layers, at, unused_validation) is None
    assert pruner.diagnostics(layers, at) == {}
    assert pruner.tracks == {"prune"}
    assert torch.equal(layers[0].dense, before)
    assert bool(layers[0].gate.kept(before).all())


def test_a_gate_optimizer_has_the_usual_defaults():
    """Only the rule and the learning rate are required; the others are torch's defaults without weight decay."""
    defaults = torch.optim.Adam([torch.ones(1, requires_grad=True)], lr=0.1).defaults
    found = GateOptimizer("adam", 0.1)
    assert found.betas == defaults["betas"]
    assert (found.weight_decay, found.momentum) == (0.0, 0.0)


# Mask pruners


def test_a_mask_pruner_hardens_by_its_last_step():
    """`harden` calls `before_step` at `harden_step`: the masks keep exactly the budget, the largest weights."""
    layers = [layer(0, keep=2), layer(1, keep=3)]
    pruner = Magnitude(sparsity=0.5)
    pruner.before_step(layers, progress(9))
    assert all(bool(one.gate.kept(one.dense).all()) for one in layers)
    pruner.harden(layers, progress(10), unused_validation)
    kept = [one.gate.kept(one.dense) for one in layers]
    assert sum(int(mask.sum()) for mask in kept) == 5
    assert all(
        torch.equal(mask, expected) for mask, expected in zip(kept, top_k([x.dense for x in layers], 5), strict=True)
    )


def test_a_mask_pruner_starts_with_every_weight():
    """Its gate is a mask of the weight's shape that keeps everything."""
    weight = torch.zeros(3, 2)
    gate = Magnitude(sparsity=0.5).gate(weight)
    assert type(gate) is Mask
    assert torch.equal(gate.keep, torch.ones(3, 2))
