"""Rules about the result of training: exact counts, the folded network, and repeatability."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pruneboard.errors import PruneboardError
from pruneboard.experiment import audit
from pruneboard.scores import kept_of
from pruneboard.testing.checks import Check, CheckFailedError, CheckSkippedError, CheckSubject, check, require
from pruneboard.testing.trial import LAYER_NAMES, KeepAll, Trial, TrialResult, finish, small_network
from pruneboard.training.state import Training

R = TypeVar("R")

SPARSITIES = (0.5, 0.777)
"""Sparsities at which counts are checked in addition to the pruner's own. At 0.777, every layer's share is fractional,
which reveals counts that are rounded layer by layer."""

RENAMED = tuple(f"{chr(ord('z') - place)}{name[::-1]}" for place, name in enumerate(LAYER_NAMES))
"""Other names for the layers, in descending alphabetical order."""


@check()
def keeps_what_it_says(subject: CheckSubject) -> None:
    """The folded weight is zero at every position that its gate does not report as kept.

    At most one in ten thousand kept positions holds 0.0.
    """
    audit.check_budget(subject.result.counts, None)


@check(applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def hits_the_target(subject: CheckSubject) -> None:
    """Of n prunable weights, exactly n - round(sparsity x n) are kept, at every sparsity that the pruner accepts."""
    for sparsity in {*SPARSITIES, subject.pruner.sparsity}:
        try:
            other = subject if sparsity == subject.pruner.sparsity else subject.at(sparsity)
        except CheckSkippedError:
            continue
        kept, budget = other.result.kept, other.budget(other.result)
        require(kept == budget, f"at sparsity {sparsity} it keeps {kept} positions where the budget is {budget}")


@check(applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def zero_sparsity_is_dense(subject: CheckSubject) -> None:
    """At sparsity 0, training gives the same bits as training without a pruner.

    On the supermask track, the network keeps its initial weights.
    """
    unpruned = subject.at(0.0)
    found = unpruned.result
    if subject.track == "prune":
        wanted: Mapping[str, Tensor] = Trial(KeepAll(sparsity=0.0), "prune").train().state
    else:
        wanted = dict(unpruned.trial().network().named_parameters())
    different = [name for name, tensor in wanted.items() if not torch.equal(found.state[name], tensor)]
    if different:
        kept, n = found.kept, unpruned.budget(found)
        what = f"{different[0]} and {len(different) - 1} more tensors" if len(different) > 1 else different[0]
        raise CheckFailedError(
            f"at sparsity 0, where it keeps {kept} of {n} positions, {what} differ from dense training"
        )


@check()
def folds_to_a_plain_network(subject: CheckSubject) -> None:
    """The folded state dict loads into the original network, which then computes the logits of the gated network.

    Both are in evaluation mode; the training step makes no difference.
    """
    result = subject.result
    result.run.progress(result.run.budget.total + 1)  # a gate that draws its weights now draws others
    plain = small_network()
    plain.load_state_dict(dict(result.state))
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gated = result.run.engine.model.eval()
    with torch.no_grad():
        given, wanted = plain.eval()(images), gated(images)
    same = torch.allclose(given, wanted, rtol=1e-4, atol=1e-5)
    require(same, "the folded and the gated network have different logits: folded() must equal forward() in eval mode")


@check(applies=lambda subject: subject.track == "supermask", when="supermask track")
def frozen_weights_stay_frozen(subject: CheckSubject) -> None:
    """On the supermask track, parameters keep their initial values, bit for bit, wherever the mask keeps them."""
    start = subject.result.run.initial.frozen
    assert start is not None
    audit.check_unchanged(subject.result.run.layers, start, subject.result.state)


@check()
def pruned_weights_stay_pruned(subject: CheckSubject) -> None:
    """Weights pruned at hardening are zero in the folded network, and kept positions stay kept.

    This is checked with strong momentum and weight decay, which continue to change the weights under a mask.
    """
    strong = {"momentum": 0.95, "weight_decay": 0.05, "lr": 0.05}
    run = HardenedMasks.from_training(subject.trial(recipe=strong).build())
    found = finish(run)
    for layer, count, before in zip(run.layers, found.counts, run.kept, strict=True):
        weight = found.state[f"{layer.name}.weight"]
        revived = int(((weight != 0) & ~before).sum())
        require(revived == 0, f"{revived} weights of layer {layer.name} pruned at hardening are nonzero at the end")
        require(count.kept == int(before.sum()), f"layer {layer.name} keeps different positions than at hardening")


@check()
def is_repeatable(subject: CheckSubject) -> None:
    """Training again with the same seed gives the same bits, regardless of the global random states."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - restored below
    try:
        random.seed(12345)
        np.random.seed(12345)  # noqa: NPY002 - changes the global state on purpose
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            again = subject.trial().train()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - restores the global state
    _require_same(subject.result, again, "a second training with the same seed")


@check()
def ignores_names(subject: CheckSubject) -> None:
    """Renaming the layers does not change the result: a method must not depend on a particular model."""
    again = subject.trial(names=RENAMED).train()
    _require_same(subject.result, again, "training with other layer names")


@check()
def reports_small_layers(subject: CheckSubject) -> None:
    """A layer that is too small to keep a weight at the target sparsity is handled.

    Either the count is exact and the harness lists the layer as collapsed, or the pruner raises a ValueError.
    """
    try:
        found = subject.trial(tiny_layer=True).train()
    except PruneboardError as error:
        require("ValueError" in str(error), f"a layer of two weights: expected a ValueError, found {error}")
        return
    if subject.traits.hits_target:
        budget = kept_of(sum(count.n for count in found.counts), subject.pruner.sparsity)
        require(found.kept == budget, f"it keeps {found.kept} positions with a tiny layer where the budget is {budget}")
    audit.check_budget(found.counts, None)


@dataclass
class HardenedMasks(Training):
    """A training that stores the masks right after hardening."""

    kept: list[Tensor] = field(default_factory=list)
    """One bool tensor per layer."""

    def hook(self, name: str, call: Callable[[], R]) -> R:
        """Run one of the method's hooks."""
        result = super().hook(name, call)
        if name == "harden":
            self.kept = [layer.gate.kept(layer.dense.detach()).clone() for layer in self.layers]
        return result


def _require_same(one: TrialResult, other: TrialResult, what: str) -> None:
    for (name, first), second in zip(one.state.items(), other.state.values(), strict=True):
        require(torch.equal(first, second), f"{what} gives a different {name}")


CHECKS: tuple[Check, ...] = (
    keeps_what_it_says,
    hits_the_target,
    zero_sparsity_is_dense,
    folds_to_a_plain_network,
    frozen_weights_stay_frozen,
    pruned_weights_stay_pruned,
    is_repeatable,
    ignores_names,
    reports_small_layers,
)
