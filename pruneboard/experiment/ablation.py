"""The two ablations of the supermask track: the mask without its weights, and the weights without their mask.

`shuffled-mask` permutes the positions of every layer's mask at random. The number of kept positions per layer stays,
so only the allocation of the budget is left of what was learned. `redrawn-weights` keeps the mask and draws the
frozen weights again by the board's rule. Batch statistics are then re-estimated, and the network is evaluated like any
other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pruneboard import models
from pruneboard.draws import key
from pruneboard.experiment.prepare import Job
from pruneboard.training import gates
from pruneboard.training.loop import recalibrate
from pruneboard.training.state import InitialNetwork, Training


def apply(job: Job, run: Training) -> None:
    """Replace the trained network by the ablated one."""
    run.listener.on_phase(f"ablation: {job.spec.ablation}")
    masks = [layer.gate.kept(layer.dense.detach()) for layer in run.layers]
    if job.spec.ablation == "shuffled-mask":
        masks = shuffle_masks(masks, job.seeds["pruner"])
    else:
        run.initial = _redraw_weights(job, run)
    run.state.best_validation = {}  # it belongs to the network before the ablation
    run.layers = gates.replace_gates(run.engine.model, run.layers, masks)
    recalibrate(run)


def shuffle_masks(masks: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return each mask with its positions permuted at random, the same permutation on every process."""
    return [_permute(mask, key(seed, "shuffled mask", index)) for index, mask in enumerate(masks)]


def _permute(mask: Tensor, seed: int) -> Tensor:
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed)).to(mask.device)
    return mask.reshape(-1)[order].reshape(mask.shape)


def _redraw_weights(job: Job, run: Training) -> InitialNetwork:
    """Draw every prunable weight again, write it, and return the initial network for the audit to compare with."""
    shapes = [tuple(layer.dense.shape) for layer in run.layers]
    drawn = models.redraw_weights(shapes, job.init, 1 - run.pruner.sparsity, job.seeds["init"])
    for layer, weight in zip(run.layers, drawn, strict=True):
        layer.dense.data.copy_(weight)  # frozen weights have no master copy in the engine
    weights = {f"{layer.name}.weight": weight for layer, weight in zip(run.layers, drawn, strict=True)}
    return dataclasses.replace(run.initial, frozen={**(run.initial.frozen or {}), **weights})
