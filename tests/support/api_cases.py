"""Layers and the position in a run, as hooks receive them, without a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruneboard.api import Gate, Layer, Mask, Progress
from pruneboard.draws import key


class Scaled(Gate):
    """Multiplies by a learned scale, and adds keyed noise in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * self.scale
        return weight * self.scale + torch.rand(weight.shape, generator=self.draw())


class Calls:
    """Records the writes that hooks request, in place of an engine."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def assign(self, parameter, new) -> None:
        self.seen.append(("assign", parameter, new))

    def reset_optimizer_state(self, parameter, mask) -> None:
        self.seen.append(("reset", parameter, mask))


def keyed(index) -> torch.Generator:
    """Return the generator of a layer (-1 for none) at one step."""
    return torch.Generator().manual_seed(key("test", index))


def progress(step, harden_step=10, total=20, engine=None) -> Progress:
    """Return the position at a step."""
    phase = "search" if step < harden_step else "finetune"
    return Progress(step, total, harden_step, phase, keyed, engine or Calls())


def layer(index=0, shape=(2, 3), keep=3) -> Layer[Mask]:
    """Return a layer with a mask that keeps everything."""
    weight = nn.Parameter(torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape))
    return Layer(index, f"layer{index}", weight, Mask(weight.detach()), keep)
