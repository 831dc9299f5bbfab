"""Where a run stands when a hook is called, and the one way to write that lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from pruneboard.api.gates import G, Layer


class Durable(Protocol):
    """What the engine lends to hooks: the one way to write that survives the next optimizer step."""

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new` on this process's module copy and on any master copy."""

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Zero the optimizer's per-element state of `parameter` where `mask` is true."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands when a hook is called.

    Attributes:
        step: optimizer step, 0-based, not yet taken (in `after_step`: just taken).
        total: optimizer steps of the whole budget.
        harden_step: step before which masks are final; equal to `total` when nothing is fine-tuned.
        phase: `search` before `harden_step`, `finetune` from there on.
        keyed: name of a purpose, layer index or -1 -> generator; behind `generator`.
        durable: behind `assign` and `reset_optimizer_state`.
    """

    step: int
    total: int
    harden_step: int
    phase: Literal["search", "finetune"]
    keyed: Callable[[int], torch.Generator]
    durable: Durable

    @property
    def fraction(self) -> float:
        """Share of the search that is over, in [0, 1]: method schedules are fractions of `harden_step`."""
        return 1.0 if self.step >= self.harden_step else self.step / self.harden_step

    def generator(self, layer: Layer[G] | None = None) -> torch.Generator:
        """Return a CPU generator keyed on (seed, step, layer), equal on every process."""
        return self.keyed(-1 if layer is None else layer.index)

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new`, durably, on every process alike.

        A plain in-place write would be undone by the next step wherever the engine keeps a master copy.
        """
        self.durable.assign(parameter, new)

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Zero the optimizer's per-element state (momentum) of `parameter` where `mask` is true."""
        self.durable.reset_optimizer_state(parameter, mask)
