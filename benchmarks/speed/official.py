"""ProbMask as in the authors' code, in plain torch: the reference for our timings.

The formulas are those of x-zho14/ProbMask-official@dff770a (utils/conv_type.py:33-43, trainers/default.py:33-52,
utils/net_utils.py:83-120), reimplemented from a description. The optimizers use torch's defaults, as in
the official code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

EPS = 1e-20


def relaxed_mask(s: Tensor, inverse_temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Return sigmoid(T (log s - log(1 - s) + g)), where g is the difference of two Gumbel draws."""
    u0, u1 = (torch.empty_like(s).uniform_(generator=generator) for _ in range(2))
    noise = -torch.log(torch.log(u0 + EPS) / torch.log(u1 + EPS) + EPS)
    return torch.sigmoid((torch.log(s + EPS) - torch.log(1 - s + EPS) + noise) * inverse_temperature)


def bisection(layers: Sequence[Tensor], k: float) -> float:
    """Return the shift of the projection after 21 halvings of [0, max], each with a pass over every layer."""
    if sum(float(layer.clamp(0, 1).sum()) for layer in layers) <= k:
        return 0.0
    low, high = 0.0, max(float(layer.max()) for layer in layers)
    v = high
    for _ in range(21):
        v = 0.5 * (low + high)
        total = sum(float((layer - v).clamp(0, 1).sum()) for layer in layers)
        if abs(total - k) < 1e-3:
            break
        low, high = (v, high) if total > k else (low, v)
    return v


def project_(layers: Sequence[Tensor], k: float) -> None:
    """Project all layers together, in place, by bisection."""
    v = bisection(layers, k)
    for layer in layers:
        layer.sub_(v).clamp_(0, 1)


class Relaxation(nn.Module):
    """A gate with one probability per weight; autograd computes the gradients."""

    def __init__(self, weight: Tensor) -> None:
        """Start with all probabilities at 1, as the official code does."""
        super().__init__()
        self.scores = nn.Parameter(torch.ones_like(weight))
        self.inverse_temperature = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight * mask."""
        return weight * relaxed_mask(self.scores, self.inverse_temperature)


class Official:
    """The official search on one of our networks, with probabilities for every convolution and linear weight."""

    def __init__(self, network: nn.Module, prunable: Sequence[nn.Module]) -> None:
        """Attach probabilities to the weights of `prunable`, and build both optimizers."""
        self.network = network.train()
        self.gates = [Relaxation(module.weight.detach()) for module in prunable]
        for module, gate in zip(prunable, self.gates, strict=True):
            parametrize.register_parametrization(module, "weight", gate, unsafe=True)
        self.scores = [gate.scores for gate in self.gates]
        own = {id(score) for score in self.scores}
        weights = [p for p in network.parameters() if id(p) not in own]
        self.of_scores = torch.optim.Adam(self.scores, lr=6e-3)
        self.of_weights = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=5e-4)

    @torch.no_grad()
    def take(self, probabilities: Sequence[Tensor], inverse_temperature: float) -> None:
        """Set the probabilities and the temperature to another state of the search."""
        for gate, probability in zip(self.gates, probabilities, strict=True):
            gate.scores.copy_(probability)
            gate.inverse_temperature = inverse_temperature

    def step(self, images: Tensor, labels: Tensor, k: float | None) -> None:
        """Average two relaxed passes, clip jointly, step Adam and SGD, and project onto the budget k if given."""
        self.of_scores.zero_grad()
        self.of_weights.zero_grad()
        for _ in range(2):
            (functional.cross_entropy(self.network(images), labels) / 2).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 3.0)
        self.of_scores.step()
        self.of_weights.step()
        if k is not None:
            with torch.no_grad():
                project_(self.scores, k)
