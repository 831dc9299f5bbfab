"""What every method's masks look like while a run goes on, measured the same way for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruneboard.api import Layer
from pruneboard.training.gates import folded_weights


class MaskTracker:
    """Compares the kept positions of an epoch's end with those of the one before.

    Attributes:
        before: those, a bool tensor per layer; None at first, when every method keeps everything.
    """

    def __init__(self) -> None:
        """Start from masks that keep everything."""
        self.before: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, layers: Sequence[Layer[Any]]) -> dict[str, Any]:
        """Return the mask statistics of a line of `metrics.jsonl`.

        Returns:
            `sparsity`: zeros of the folded weights over all prunable weights. `layers`: the same per layer, by name.
            `mask`: positions `kept`; `removed` and `restored` since the last look and their sum, `flips`;
            layers that are `collapsed`, keeping nothing. Positions count as kept where the gate says so.
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
