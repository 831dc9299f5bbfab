"""The numbers of a line of `metrics.jsonl`: mask statistics, measured the same way for every method, and its own."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from pruneboard.api import Layer
from pruneboard.training.gates import folded_weights

MAX_DIAGNOSTICS = 100
"""Maximum number of values that a method shows after an epoch."""

MAX_NAME = 100
"""Maximum number of characters in the name of such a value."""


def numbers(diagnostics: Mapping[str, SupportsFloat]) -> dict[str, int | float]:
    """Return what a method's `diagnostics` returned, with every value as a Python number.

    Raises:
        TypeError: a name is not text, or a value is not a number.
        ValueError: there are too many values, or a name is too long.
    """
    found = dict(diagnostics)
    if len(found) > MAX_DIAGNOSTICS:
        raise ValueError(f"{len(found)} values; at most {MAX_DIAGNOSTICS} are shown")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, SupportsFloat):
            raise TypeError(f"it must return numbers by name; found {reprlib.repr(name)}: {reprlib.repr(value)}")
        if len(name) > MAX_NAME:
            raise ValueError(f"a name must have at most {MAX_NAME} characters; found {reprlib.repr(name)}")
    return {name: value if isinstance(value, (int, float)) else float(value) for name, value in found.items()}


class MaskTracker:
    """Compares the kept positions at the end of an epoch with those at the end of the epoch before.

    Attributes:
        before: the kept positions at the last update, a bool tensor per layer; None before the first, when every
            position counts as kept.
    """

    def __init__(self) -> None:
        """Start with masks that keep everything."""
        self.before: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, layers: Sequence[Layer[Any]]) -> dict[str, Any]:
        """Return the mask statistics of a line of `metrics.jsonl`.

        Returns:
            `sparsity`: share of zeros among the folded prunable weights. `layers`: the same per layer, by name.
            `mask`: number of positions `kept`, `removed` and `restored` since the last update, and their sum `flips`;
            number of `collapsed` layers, which keep nothing. A position is kept if `Gate.kept` says so.
        """
        zeros = [int((weight == 0).sum()) for weight in folded_weights(layers)]
        sizes = [layer.dense.numel() for layer in layers]
        now = [layer.gate.kept(layer.dense.detach()) for layer in layers]
        before = self.before or [torch.ones_like(kept) for kept in now]
        self.before = [kept.clone() for kept in now]
        removed = sum(int((old & ~new).sum()) for old, new in zip(before, now, strict=True))
        restored = sum(int((new & ~old).sum()) for old, new in zip(before, now, strict=True))
        kept = [int(mask.sum()) for mask in now]
        return {
            "sparsity": sum(zeros) / sum(sizes),
            "layers": {layer.name: zero / size for layer, zero, size in zip(layers, zeros, sizes, strict=True)},
            "mask": {
                "kept": sum(kept),
                "removed": removed,
                "restored": restored,
                "flips": removed + restored,
                "collapsed": kept.count(0),
            },
        }
