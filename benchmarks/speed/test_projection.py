"""The projection of all probabilities together: beside the official 21 halvings per layer, and beside a sort."""

from __future__ import annotations

import pytest
import torch
from cases import training
from official import project_
from rows import Row

NETWORKS = {"resnet32_cifar": ("2 M", 1.0), "resnet50": ("25 M", 3.0)}
"""Network whose layers the weights come in -> in words; how often as fast as the bisection it has to be."""

FRACTION = 0.5
"""Of the search: K is on its way to a tenth."""


def sorted_project_(layers, k):
    """Project by a sort: the sum is linear between the places where an entry reaches 1 or 0, which are its corners."""
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


class Case:
    """A search at the moment of its projection: one Adam step away from the last budget."""

    def __init__(self, network: str) -> None:
        """Take the layers of `network`."""
        self.run = training("probmask", network, batch=1, stem="stock" if network == "resnet50" else None)
        self.step = round(FRACTION * self.run.budget.harden_step)
        self.layers = self.run.layers
        n, kept = sum(layer.dense.numel() for layer in self.layers), sum(layer.keep for layer in self.layers)
        self.k = kept + (n - kept) * self.run.pruner.kept_share(self.run.progress(self.step).fraction)
        generator = torch.Generator().manual_seed(0)
        shapes = [layer.dense.shape for layer in self.layers]
        last = [torch.rand(shape, generator=generator).pow_(n / self.k - 1) for shape in shapes]
        moves = [6e-3 * torch.randn(shape, generator=generator).sign_() for shape in shapes]
        self.settled = last
        self.moved = [score + move for score, move in zip(last, moves, strict=True)]
        self.scores = [torch.empty(shape) for shape in shapes]

    def before(self) -> None:
        """Let the gates see the last budget's projection, then take Adam's step, on both sides."""
        with torch.no_grad():
            for layer, settled in zip(self.layers, self.settled, strict=True):
                layer.gate.probability.copy_(settled)
            self.run.pruner.before_step(self.layers, self.run.progress(self.step))
            for layer, score, moved in zip(self.layers, self.scores, self.moved, strict=True):
                layer.gate.probability.copy_(moved)
                score.copy_(moved)

    def ours(self) -> None:
        """Project: the one public way in."""
        self.run.pruner.after_step(self.layers, self.run.progress(self.step))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "reference"), [("bisection", project_), ("sort", sorted_project_)])
def test_projection(versus, rounds, network, name, reference):
    """(c) Shift and clipped result together; both sides find the same to float32's rounding of a sum."""
    words, bound = NETWORKS[network]
    case = Case(network)
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
        rounds=rounds(15 if name == "bisection" else 3),
        before=case.before,
    )
    case.run.engine.close()
