"""Rules about what comes out of a training: counts, the folded network, and that it comes out again."""

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
from pruneboard.testing.bench import NAMES, Bench, KeepsAll, Trained, finish, specimen
from pruneboard.testing.subject import POINTS, Check, CheckFailedError, CheckSkippedError, Subject, check, require
from pruneboard.training.state import Training

R = TypeVar("R")

RENAMED = tuple(f"{chr(ord('z') - place)}{name[::-1]}" for place, name in enumerate(NAMES))


@check()
def keeps_what_it_says(subject: Subject) -> None:
    """What a gate says it keeps is what is there.

    The folded weight is zero everywhere else, and no more than one in ten thousand kept positions holds 0.0.
    """
    audit.check_budget(subject.trained.counts, None)


@check(applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def hits_the_target(subject: Subject) -> None:
    """Of n prunable weights exactly n - round(sparsity x n) are kept, at every sparsity that the pruner takes."""
    tried = 0
    for point in {*POINTS, subject.pruner.sparsity}:
        try:
            there = subject if point == subject.pruner.sparsity else subject.at(point)
        except CheckSkippedError:
            continue
        found, budget = there.trained.kept, there.budget(there.trained)
        require(found == budget, f"at sparsity {point} it keeps {found} positions where the budget is {budget}")
        tried += 1
    require(tried > 0, "it takes no sparsity that was tried")


@check(applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def zero_sparsity_is_dense(subject: Subject) -> None:
    """At sparsity 0 training goes as without a pruner, bit for bit.

    On the supermask track the network stays as it was drawn.
    """
    there = subject.at(0.0)
    found = there.trained
    if subject.track == "prune":
        wanted: Mapping[str, Tensor] = Bench(KeepsAll(sparsity=0.0), "prune").trained().state
    else:
        wanted = dict(there.bench().network().named_parameters())
    different = [name for name, tensor in wanted.items() if not torch.equal(found.state[name], tensor)]
    if different:
        kept, n = found.kept, there.budget(found)
        what = f"{different[0]} and {len(different) - 1} more tensors" if len(different) > 1 else different[0]
        raise CheckFailedError(
            f"at sparsity 0, where it keeps {kept} of {n} positions, the dense {what} come otherwise"
        )


@check()
def folds_to_a_plain_network(subject: Subject) -> None:
    """The folded state loads into an untouched network, which computes what the gated one does in evaluation mode.

    It does so in whatever step the gated one is asked.
    """
    trained = subject.trained
    trained.run.progress(trained.run.budget.total + 1)  # a gate that drew its weights would draw others now
    plain = specimen()
    plain.load_state_dict(dict(trained.state))
    pictures = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gated = trained.run.engine.model.eval()
    with torch.no_grad():
        given, wanted = plain.eval()(pictures), gated(pictures)
    same = torch.allclose(given, wanted, rtol=1e-4, atol=1e-5)
    require(same, "folded() is not what forward() gives outside training: the two networks have different logits")


@check(applies=lambda subject: subject.track == "supermask", when="track supermask")
def frozen_weights_stay_frozen(subject: Subject) -> None:
    """On the supermask track every parameter is the initial one, bit for bit, wherever a mask keeps something."""
    start = subject.trained.run.initial.frozen
    assert start is not None
    audit.check_unchanged(subject.trained.run.layers, start, subject.trained.state)


@check()
def pruned_weights_stay_pruned(subject: Subject) -> None:
    """What is pruned at hardening is zero in the folded network, and what is kept stays kept.

    Whatever momentum and weight decay, both strong here, do to the weights beneath.
    """
    strong = {"momentum": 0.95, "weight_decay": 0.05, "lr": 0.05}
    run = Remembering.from_training(subject.bench(recipe=strong).ready())
    found = finish(run)
    for layer, count, before in zip(run.layers, found.counts, run.kept, strict=True):
        weight = found.state[f"{layer.name}.weight"]
        revived = int(((weight != 0) & ~before).sum())
        require(revived == 0, f"{revived} weights of layer {layer.name} that hardening pruned are back in the end")
        require(count.kept == int(before.sum()), f"layer {layer.name} keeps other positions than it was hardened with")


@check()
def is_repeatable(subject: Subject) -> None:
    """The same seed gives the same network again, bit for bit, whatever the global random states are."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - to be put back
    try:
        random.seed(12345)
        np.random.seed(12345)  # noqa: NPY002 - to be another one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            again = subject.bench().trained()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as it was
    _same(subject.trained, again, "a second training with the same seed")


@check()
def ignores_names(subject: Subject) -> None:
    """Layers under other names give the same network: a method may not know a model."""
    again = subject.bench(names=RENAMED).trained()
    _same(subject.trained, again, "the same network with other names for its layers")


@check()
def reports_small_layers(subject: Subject) -> None:
    """A layer that is too small to keep a weight at the target breaks nothing.

    The count is exact and the harness lists the layer as collapsed, or the pruner refuses with a ValueError.
    """
    try:
        found = subject.bench(small=True).trained()
    except PruneboardError as error:
        require("ValueError" in str(error), f"a layer of two weights ends the training otherwise: {error}")
        return
    if subject.traits.hits_target:
        budget = kept_of(sum(count.n for count in found.counts), subject.pruner.sparsity)
        require(found.kept == budget, f"with a layer of two weights it keeps {found.kept} where the budget is {budget}")
    audit.check_budget(found.counts, None)


@dataclass
class Remembering(Training):
    """A training that remembers what was kept right after hardening: a bool tensor per layer."""

    kept: list[Tensor] = field(default_factory=list)

    def hook(self, name: str, call: Callable[[], R]) -> R:
        """Run one of the plugin's functions."""
        result = super().hook(name, call)
        if name == "harden":
            self.kept = [layer.gate.kept(layer.dense.detach()).clone() for layer in self.layers]
        return result


def _same(one: Trained, other: Trained, what: str) -> None:
    for (name, first), second in zip(one.state.items(), other.state.values(), strict=True):
        require(torch.equal(first, second), f"{what} ends with another {name}")


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
