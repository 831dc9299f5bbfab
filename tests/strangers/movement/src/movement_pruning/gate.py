"""The gate of movement pruning: a score per weight, learned straight through the mask it decides."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from pruneboard.api import Gate


@final
class MovementGate(Gate):
    """Effective weight w * m, with m a mask of zeros and ones that the highest scores of the network made.

    Attributes:
        score: parameter of the weight's shape, 0 at the start.
        keep: m, a buffer of the weight's shape and dtype, all 1 at the start.
    """

    score: nn.Parameter
    keep: Tensor

    def __init__(self, weight: Tensor, *, learn: bool) -> None:
        """Keep everything; `learn=False` where the budget does, too."""
        super().__init__()
        self.score = nn.Parameter(torch.zeros_like(weight), requires_grad=learn)
        self.register_buffer("keep", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m; in training with dL/ds = dL/d(w * m) * w, pruned positions included."""
        if not self.training or not self.score.requires_grad:
            return weight * self.keep
        return weight * (self.keep + (self.score - self.score.detach()))  # the bracket is exactly 0

    def kept(self, weight: Tensor) -> Tensor:
        """Return where m is 1."""
        del weight
        return self.keep != 0
