"""The floor control: a random mask, drawn once before training. A useful method is clearly better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from pruneboard.api import Layer, Mask, MaskPruner, Progress, Track, Traits
from pruneboard.scores import select, set_masks


@final
@dataclass(frozen=True, kw_only=True)
class Random(MaskPruner):
    """Keep a uniformly random set of exactly k weights, fixed before step 0.

    On the supermask track nothing is left to learn after that, so no training step is taken.

    Attributes:
        allocation: `uniform` (every layer keeps the same share), `global` (every weight of the network is
            equally likely) or `erk` (Erdos-Renyi-Kernel, arXiv:1911.11134).
    """

    tracks: ClassVar[frozenset[Track]] = frozenset({"prune", "supermask"})

    allocation: Literal["uniform", "global", "erk"] = "uniform"

    def traits(self, track: Track) -> Traits:
        """Declare the floor control, whose mask is fixed before the first step."""
        del track
        return Traits(harden_at=0.0, control="floor")

    def before_step(self, layers: Sequence[Layer[Mask]], at: Progress) -> None:
        """Draw the mask: the k highest of independent uniform scores."""
        draws = [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]
        set_masks(layers, select(layers, draws, self.allocation))
