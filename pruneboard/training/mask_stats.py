"""Mask statistics at the end of each epoch, measured the same way for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruneboard.api import Layer
from pruneboard.training.gates import folded_weights


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
