"""Compute a lower bound for the time of a ProbMask step on this machine, with torch's operations one after another.

It is the sum of three measured parts: the network (two dense passes and one optimizer step), the arithmetic of the
gates (their own code on operands in the cache), and the memory traffic (the minimum number of bytes, at the speed of a
copy).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneboard_probmask import bulk
from pruneboard_probmask.gate import ProbabilityGate, relaxed

PARTS = (1 << 15, 1 << 16, 1 << 17)
"""Numbers of weights whose pass fits in a cache. The fastest one counts: it makes the best use of caches and calls."""

COPIED = 1 << 24
"""Number of entries of the copy that measures memory bandwidth."""

DRAWN_FOR_ALL = 40
"""Bytes per weight and pass: reads w, s, writes m and w m; reads s, m, w and the gradient, writes two gradients."""

DRAWN_FOR_FEW = 28
"""Bytes per weight and pass: reads w, s, writes w m; reads s and the gradient, writes two gradients."""

AGAIN = 12
"""Bytes per weight and further pass: the gradient of s is added to that of the previous pass."""

STEP = 12 + 28 + 4
"""Bytes per weight and step: norm and scaling of the clip, Adam, and the search for undecided probabilities."""

PROJECTION = 4 + 16
"""Bytes per weight and projection: one sum; the clipped scores are computed and written back."""


@dataclass(frozen=True)
class Floor:
    """Lower bound of one step, in seconds.

    Attributes:
        network: two dense passes and one optimizer step.
        arithmetic: the gates' arithmetic in all passes.
        memory: the memory traffic of gates, clip, Adam and projection.
    """

    network: float
    arithmetic: float
    memory: float

    @property
    def total(self) -> float:
        """Sum of the three parts."""
        return self.network + self.arithmetic + self.memory


def fastest(call: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """Return the duration of the fastest of `repeats` calls, in seconds."""
    taken = []
    for _ in range(repeats):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def bytes_per_second(clock: Callable[[], float]) -> float:
    """Return the memory bandwidth of a copy, in bytes read and written per second."""
    source, target = torch.ones(COPIED), torch.ones(COPIED)
    return 8 * COPIED / fastest(lambda: target.copy_(source), clock, 5)


def floor(
    gates: list[ProbabilityGate], passes: int, network: float, clock: Callable[[], float], *, projects: bool
) -> Floor:
    """Return the lower bound of a step with `gates` in their current state.

    Args:
        gates: one per prunable layer.
        passes: forward passes per step.
        network: seconds of the dense passes and the optimizer step.
        clock: seconds.
        projects: whether the step includes a projection.
    """
    arithmetic, moved = 0.0, 0
    for gate in gates:
        n = gate.probability.numel()
        arithmetic += passes * n * in_cache(gate, clock)
        each = DRAWN_FOR_ALL if gate.undecided is None else DRAWN_FOR_FEW
        moved += n * (passes * each + (passes - 1) * AGAIN + STEP + PROJECTION * projects)
    return Floor(network, arithmetic, moved / bytes_per_second(clock))


def in_cache(gate: ProbabilityGate, clock: Callable[[], float]) -> float:
    """Return the seconds per weight of one pass of the gate's code, on a part of the layer that fits in a cache."""
    n = gate.probability.numel()
    return min(_pace(gate, min(part, n), clock) for part in PARTS)


def _pace(gate: ProbabilityGate, n: int, clock: Callable[[], float]) -> float:
    s = gate.probability.detach().view(-1)[:n].clone().requires_grad_()
    weight, upstream = torch.ones(n, requires_grad=True), torch.ones(n)
    few = None if gate.undecided is None else gate.undecided[gate.undecided < n].clone()
    generator, workspace = torch.Generator().manual_seed(0), torch.empty(2, n)

    def both() -> tuple[Tensor, ...]:
        made = relaxed(weight, s, gate.inverse_temperature, generator, few, workspace)
        return torch.autograd.grad(made, (weight, s), upstream)

    usual, bulk.LARGE = bulk.LARGE, n if bulk.is_large(gate.probability) else bulk.LARGE
    try:
        return fastest(both, clock, 7) / n
    finally:
        bulk.LARGE = usual
