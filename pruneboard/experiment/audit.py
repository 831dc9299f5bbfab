"""Check the folded model: count its zeros, compare the count with the budget, and find changed frozen weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruneboard.api import Layer
from pruneboard.errors import AuditError, DivergedError
from pruneboard.models.weights_file import few, not_finite
from pruneboard.training.integrity import KEPT_ZERO_TOLERANCE


@dataclass(frozen=True)
class LayerCount:
    """One layer of the folded model: number of weights, of positions that its gate keeps, and of non-zero weights."""

    name: str
    n: int
    kept: int
    nonzero: int


def count_layers(layers: Sequence[Layer[Any]], state: Mapping[str, Tensor]) -> list[LayerCount]:
    """Count every prunable layer of the folded `state`.

    Raises:
        DivergedError: a tensor of `state` is not finite. NaN differs from 0 also where the mask multiplies it by 0.
        AuditError: a position outside the mask is not zero.
    """
    wrong = not_finite(state)
    if wrong:
        raise DivergedError(f"weights are not finite: {few(wrong)}: lower the learning rate (--lr) or clip (--clip)")
    counts = []
    for layer in layers:
        weight = state[f"{layer.name}.weight"]
        kept = layer.gate.kept(layer.dense.detach()).cpu()
        if kept.dtype != torch.bool or kept.shape != weight.shape:
            found = f"{kept.dtype} {tuple(kept.shape)}"
            raise AuditError(
                f"layer {layer.name}: kept() must return a bool tensor of the weight's shape; found {found}"
            )
        stray = int(((weight != 0) & ~kept).sum())
        if stray:
            raise AuditError(f"layer {layer.name}: {stray} weights outside the mask are not zero")
        counts.append(LayerCount(layer.name, weight.numel(), int(kept.sum()), int((weight != 0).sum())))
    return counts


def check_budget(counts: Sequence[LayerCount], keep: int | None) -> None:
    """Check that the folded model keeps exactly `keep` positions; None if the method lets the sparsity emerge.

    Raises:
        AuditError: a different number of positions is kept, or too many kept positions hold 0.0.
    """
    kept, nonzero = sum(c.kept for c in counts), sum(c.nonzero for c in counts)
    if keep is not None and kept != keep:
        raise AuditError(f"{kept} positions are kept where the budget is {keep}")
    if kept - nonzero > KEPT_ZERO_TOLERANCE * kept:
        raise AuditError(
            f"{kept - nonzero} of {kept} kept positions hold 0.0: the mask counts more weights as kept than are nonzero"
        )


def check_unchanged(layers: Sequence[Layer[Any]], start: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Check that a frozen network still has its initial parameters, bit for bit, at every position that is kept.

    Args:
        layers: the prunable layers; their pruned positions are 0, which `count_layers` has checked.
        start: every parameter before training, by its name in the plain network.
        state: the folded model.

    Raises:
        AuditError: a parameter changed; the message names it.
    """
    kept = {f"{layer.name}.weight": layer.gate.kept(layer.dense.detach()).cpu() for layer in layers}
    for name, before in start.items():
        after = state[name]
        changed = (after != before) | (after.signbit() != before.signbit())  # `!=` alone takes -0.0 for 0.0
        if name in kept:
            changed &= kept[name]
        if bool(changed.any()):
            raise AuditError(
                f"{name}: {int(changed.sum())} values are not the initial ones; on the supermask track only masks "
                "are learned"
            )


def sparsity_block(counts: Sequence[LayerCount], target: float | None, keep: int, parameters: int) -> dict[str, Any]:
    """Return the record's `sparsity` block: target and measured, over prunable weights and over the whole model."""
    n, kept, nonzero = (sum(getattr(c, field) for c in counts) for field in ("n", "kept", "nonzero"))
    return {
        "target": target,
        "measured": (n - nonzero) / n,
        "prunable": n,
        "keep": keep,
        "kept": kept,
        "nonzero": nonzero,
        "kept_zero": kept - nonzero,
        "whole_model": (n - nonzero) / parameters,
        "collapsed": [c.name for c in counts if c.nonzero == 0],
    }
