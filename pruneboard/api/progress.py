"""The current position in a run, which every hook receives, and the writes that the optimizer does not undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from pruneboard.api.gates import G, Layer
from pruneboard.processes import phases


class Durable(Protocol):
    """Writes to trained tensors that survive the next optimizer step; the engine implements them.

    Pruners use them through `Progress.assign` and `Progress.reset_optimizer_state`.
    """

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new` in this process's model and in the optimizer's master copy, if there is one."""

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Set the optimizer's per-element state of `parameter` to zero where `mask` is true."""


@dataclass(frozen=True)
class Progress:
    """The position in a run at which a hook is called, the argument `at` of every hook.

    It is valid only during that call.

    Attributes:
        step: optimizer step, 0-based: the one about to be taken; in `after_step` and `update`, the one just taken.
        total: optimizer steps of the whole budget.
        harden_step: the step before which the gates become final; equal to `total` if nothing is fine-tuned.
        phase: `search` before `harden_step`, `finetune` from there on.
        keyed: maps a layer's index, or -1 for none, to a generator; used by `generator`.
        durable: used by `assign` and `reset_optimizer_state`.
    """

    step: int
    total: int
    harden_step: int
    phase: Literal["search", "finetune"]
    keyed: Callable[[int], torch.Generator]
    durable: Durable

    @property
    def fraction(self) -> float:
        """Completed share of the search, `step / harden_step`, in [0, 1]; a method's schedule is a function of it."""
        return 1.0 if self.step >= self.harden_step else self.step / self.harden_step

    def generator(self, layer: Layer[G] | None = None) -> torch.Generator:
        """Return a CPU generator keyed on (seed, step, layer), the same on every process.

        Every call returns a new generator that starts from the same key: draw all numbers of a purpose from one.

        Args:
            layer: the layer the numbers are for; None for numbers that belong to no single layer.
        """
        return self.keyed(-1 if layer is None else layer.index)

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new`, so that the value lasts.

        The next optimizer step would undo an in-place write wherever the engine keeps a master copy. Every process
        must make the same calls in the same order.

        Args:
            parameter: a layer's `dense`, or a parameter of a gate.
            new: the whole new value, of the parameter's shape.

        Raises:
            RuntimeError: the hook may only read, as `diagnostics`.
        """
        self.durable.assign(parameter, new)

    def report(self, what: str, done: int, total: int) -> None:
        """Report the progress of a hook that takes long, as in `at.report("sample", 3, 10)`; it is only displayed.

        Args:
            what: what is counted.
            done: number of the item that the hook starts to work on, counted from 1.
            total: number of items.
        """
        phases.item(what, done, total)

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Set the optimizer's per-element state (momentum, Adam's moments) of `parameter` to zero where `mask` is true.

        Every process must make the same calls in the same order.

        Args:
            parameter: a layer's `dense`, or a parameter of a gate.
            mask: bool tensor of the parameter's shape.
        """
        self.durable.reset_optimizer_state(parameter, mask)
