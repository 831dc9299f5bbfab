"""Specialized base classes: what they declare, what they require, and that the harness's view matches the interface."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest
import torch

from api_cases import layer, progress
from pruneboard.api import DenseGradientPruner, Mask, ModelView, ScoringPruner, Traits
from pruneboard.training.scoring import ScoringView


@dataclass(frozen=True, kw_only=True)
class FromData(ScoringPruner):
    """Scores by |w|."""

    def score(self, view, batches):
        return [one.dense.detach().abs() for one in view.layers]


@dataclass(frozen=True, kw_only=True)
class Growing(DenseGradientPruner):
    """Updates every second step."""

    def wants_gradients(self, at):
        return at.step % 2 == 1

    def update(self, layers, dense_gradients, at):
        for one, gradient in zip(layers, dense_gradients, strict=True):
            one.gate.set(gradient != 0)


def test_a_scoring_pruner_must_define_its_score():
    """All else has a default."""
    assert ScoringPruner.__abstractmethods__ == {"score"}
    with pytest.raises(TypeError, match="score"):
        ScoringPruner(sparsity=0.5)


def test_a_scoring_pruner_fixes_its_masks_before_the_first_step():
    """It declares `harden_at=0` and otherwise the defaults, on every track."""
    for track in ("prune", "supermask"):
        assert FromData(sparsity=0.5).traits(track) == Traits(harden_at=0.0)


def test_a_dense_gradient_pruner_must_define_when_and_how_it_updates():
    """`wants_gradients` and `update` have no default."""
    assert DenseGradientPruner.__abstractmethods__ == {"wants_gradients", "update"}


def test_a_dense_gradient_pruner_has_the_default_traits():
    """Its masks are learned to the end unless it declares otherwise."""
    assert Growing(sparsity=0.5).traits("prune") == Traits()


@pytest.mark.parametrize("pruner", [FromData(sparsity=0.5), Growing(sparsity=0.5)])
def test_both_start_with_masks_that_keep_everything(pruner):
    """Their gates are plain masks."""
    gate = pruner.gate(torch.zeros(2, 2))
    assert type(gate) is Mask
    assert torch.equal(gate.keep, torch.ones(2, 2))


def test_an_update_changes_masks_through_the_layers():
    """What `update` sets is what the gate keeps from then on."""
    one = layer(shape=(4,), keep=2)
    pruner = Growing(sparsity=0.5)
    assert [pruner.wants_gradients(progress(step)) for step in range(3)] == [False, True, False]
    pruner.update([one], [torch.tensor([0.0, 1.0, 0.0, -1.0])], progress(1))
    assert one.gate.kept(one.dense).tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["logits", "loss"])
def test_the_view_of_the_harness_has_the_documented_signature(name):
    """Names, order, kinds and defaults of the arguments are those that the interface declares."""
    declared = inspect.signature(getattr(ModelView, name)).parameters.values()
    provided = inspect.signature(getattr(ScoringView, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in provided] == [(p.name, p.kind, p.default) for p in declared]
