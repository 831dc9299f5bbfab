"""The joint projection of all probabilities, compared with the official bisection and with a sort."""

from __future__ import annotations

import math

import pytest
import torch
from cases import plan
from official import project_
from rows import Row
from torch import nn

from pruneboard import models, registry
from pruneboard.api import Layer, Progress
from pruneboard.scores import kept_of, uniform
from pruneboard.training.gates import DrawKey

NETWORKS = {"resnet32_cifar": ("2 M", 1.0), "resnet50": ("25 M", 3.0)}
"""Network that gives the layer shapes -> number of weights in words, and the required speedup over the bisection."""


def sorted_project_(layers, k):
    """Project with a sort.

    The clipped sum is a piecewise linear function of the shift. Its corners are the shifts at which an entry
    reaches 1 or 0, so the sort locates the segment that contains the solution.
    """
    flat = torch.cat([layer.reshape(-1) for layer in layers]).double()
    if float(flat.clamp(0, 1).sum()) <= k:
        v = 0.0
    else:
        corners, order = torch.cat([flat, flat - 1]).sort(descending=True)
        slopes = torch.ones_like(corners).masked_fill_(order >= flat.numel(), -1).cumsum(0)
        sums = torch.zeros_like(corners)
        sums[1:] = (slopes[:-1] * (corners[:-1] - corners[1:])).cumsum(0)
        above = int(torch.searchsorted(sums, torch.tensor(k, dtype=torch.float64)))
        v = float(corners[above - 1]) - (k - float(sums[above - 1])) / float(slopes[above - 1])
    for layer in layers:
        layer.sub_(v).clamp_(0, 1)


class InPlace:
    """Replaces the engine's writer for hooks; there is no master copy of the weights."""

    def assign(self, parameter, new) -> None:
        """Copy `new` into the parameter."""
        with torch.no_grad():
            parameter.copy_(new)

    def reset_optimizer_state(self, parameter, mask) -> None:
        """Do nothing, because there is no optimizer."""


class Case:
    """A search to sparsity .9, one Adam step after its last projection."""

    def __init__(self, shapes) -> None:
        """Create layers with these shapes and typical probabilities before and after an Adam step."""
        self.pruner = registry.build(registry.find("probmask"), 0.9, {})
        sizes = [math.prod(shape) for shape in shapes]
        n, kept = sum(sizes), kept_of(sum(sizes), 0.9)
        weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        self.layers = [
            Layer(index, str(index), weight, self.pruner.gate(weight.detach()), keep)
            for index, (weight, keep) in enumerate(zip(weights, uniform(sizes, kept), strict=True))
        ]
        draw_key = DrawKey(0)
        self.at = Progress(50, 107, 100, "search", draw_key.hook_generator, InPlace())
        self.k = kept + (n - kept) * self.pruner.kept_share(self.at.fraction)
        generator = torch.Generator().manual_seed(0)
        self.settled = [torch.rand(shape, generator=generator).pow_(n / self.k - 1) for shape in shapes]
        moves = [6e-3 * torch.randn(shape, generator=generator).sign_() for shape in shapes]
        self.moved = [score + move for score, move in zip(self.settled, moves, strict=True)]
        self.scores = [torch.empty(shape) for shape in shapes]

    @torch.no_grad()
    def before(self) -> None:
        """Restore the state on both sides: the last projection, then an Adam step."""
        for layer, settled in zip(self.layers, self.settled, strict=True):
            layer.gate.probability.copy_(settled)
        self.pruner.before_step(self.layers, self.at)
        for layer, score, moved in zip(self.layers, self.scores, self.moved, strict=True):
            layer.gate.probability.copy_(moved)
            score.copy_(moved)

    def ours(self) -> None:
        """Project with the pruner's own hook."""
        self.pruner.after_step(self.layers, self.at)


def shapes_of(network):
    """Return the shapes of a network's prunable weights."""
    with torch.device("meta"):
        built = models.build_model(plan(network, "stock" if network == "resnet50" else None), seed=0)
    return [tuple(module.weight.shape) for _, module in models.prunable_layers(built)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "reference"), [("bisection", project_), ("sort", sorted_project_)])
def test_projection(versus, rounds, network, name, reference):
    """(c) Shift and clipped result; both sides agree up to the float32 rounding of a sum."""
    words, bound = NETWORKS[network]
    case = Case(shapes_of(network))
    case.before()
    case.ours()
    reference(case.scores, case.k)
    for layer, score in zip(case.layers, case.scores, strict=True):
        torch.testing.assert_close(layer.gate.probability.detach(), score, atol=1e-4, rtol=0)
    n = sum(score.numel() for score in case.scores)
    row = Row(
        section="c",
        what=f"projection, {words} weights ({n:,}, the layers of {network})",
        against="21 halvings per layer" if name == "bisection" else "a sort",
        kind="gain",
        bound=bound if name == "bisection" else None,
        note="one Adam step of 6e-3 after the last projection",
    )
    versus(
        row,
        case.ours,
        lambda: reference(case.scores, case.k),
        rounds=rounds(15 if name == "bisection" else 2),
        before=case.before,
    )
