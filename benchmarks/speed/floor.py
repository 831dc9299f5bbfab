"""The least that a step of ProbMask takes on this machine, with torch's operations one after another.

Three parts, each measured here: the network (two dense passes and one optimizer step), the arithmetic of the gates
(their own code on operands that are in the cache), and the bytes that have to be moved at least, at the pace of a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneboard_probmask import bulk
from pruneboard_probmask.gate import ProbabilityGate, relaxed

PARTS = (1 << 15, 1 << 16, 1 << 17)
"""Weights whose pass stays in a cache; the fastest counts, which has the most of caches and the fewest calls."""

COPIED = 1 << 24
"""Entries of the copy that tells how fast memory is."""

DRAWN_FOR_ALL = 40
"""Bytes a weight and pass: reads w, s, writes m and w m; reads s, m, w and the gradient, writes two gradients."""

DRAWN_FOR_FEW = 28
"""Bytes a weight and pass: reads w, s, writes w m; reads s and the gradient, writes two gradients."""

AGAIN = 12
"""Bytes a weight and further pass: the gradient of s is added to that of the pass before."""

STEP = 12 + 28 + 4
"""Bytes a weight and step: the clip's norm and scaling, Adam, and the search for undecided probabilities."""

PROJECTION = 4 + 16
"""Bytes a weight and projection: one sum; the clipped scores are made and put in their place."""


@dataclass(frozen=True)
class Floor:
    """Seconds of one step at least.

    Attributes:
        network: two dense passes and one optimizer step.
        arithmetic: of all gates in all passes.
        memory: what gates, Adam and projection read and write.
    """

    network: float
    arithmetic: float
    memory: float

    @property
    def total(self) -> float:
        """All three, one after the other."""
        return self.network + self.arithmetic + self.memory


def fastest(call: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """Return the seconds of the fastest of some calls."""
    taken = []
    for _ in range(repeats):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def bytes_per_second(clock: Callable[[], float]) -> float:
    """Return how many bytes a copy reads and writes in a second."""
    source, target = torch.ones(COPIED), torch.ones(COPIED)
    return 8 * COPIED / fastest(lambda: target.copy_(source), clock, 5)


def floor(
    gates: list[ProbabilityGate], passes: int, network: float, clock: Callable[[], float], *, projects: bool
) -> Floor:
    """Return the floor of a step with `gates` in the state that they are in, whose dense step takes `network`."""
    arithmetic, moved = 0.0, 0
    for gate in gates:
        n = gate.probability.numel()
        arithmetic += passes * n * in_cache(gate, clock)
        each = DRAWN_FOR_ALL if gate.undecided is None else DRAWN_FOR_FEW
        moved += n * (passes * each + (passes - 1) * AGAIN + STEP + PROJECTION * projects)
    return Floor(network, arithmetic, moved / bytes_per_second(clock))


def in_cache(gate: ProbabilityGate, clock: Callable[[], float]) -> float:
    """Return the seconds that a pass of the gate's own code takes per weight, on a part of the layer in the cache."""
    n = gate.probability.numel()
    return min(_pace(gate, min(part, n), clock) for part in PARTS)


def _pace(gate: ProbabilityGate, n: int, clock: Callable[[], float]) -> float:
    s = gate.probability.detach().view(-1)[:n].clone().requires_grad_()
    weight, upstream = torch.ones(n, requires_grad=True), torch.ones(n)
    few = None if gate.undecided is None else gate.undecided[gate.undecided < n].clone()
    generator, room = torch.Generator().manual_seed(0), torch.empty(2, n)

    def both() -> tuple[Tensor, ...]:
        made = relaxed(weight, s, gate.inverse_temperature, generator, few, room)
        return torch.autograd.grad(made, (weight, s), upstream)

    usual, bulk.LARGE = bulk.LARGE, n if bulk.is_large(gate.probability) else bulk.LARGE
    try:
        return fastest(both, clock, 7) / n
    finally:
        bulk.LARGE = usual
