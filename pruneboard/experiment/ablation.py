"""What a supermask is worth without its weights, and its weights without it: the track's two ablations.

`shuffled-mask` keeps the number of positions of every layer and permutes which ones, so that only the
allocation of the budget is left of what was learned. `redrawn-weights` keeps the mask and draws the frozen
weights anew by the board's rule. Batch statistics are re-estimated, and the network is measured like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pruneboard import models
from pruneboard.data import calibration_batches
from pruneboard.draws import key
from pruneboard.experiment.prepare import Job
from pruneboard.training import gates
from pruneboard.training.evaluate import reestimate_statistics
from pruneboard.training.state import InitialNetwork, Training


def apply(job: Job, run: Training) -> None:
    """Put the ablated network in the place of the finished one."""
    run.listener.on_phase(f"ablation: {job.spec.ablation}")
    masks = [layer.gate.kept(layer.dense.detach()) for layer in run.layers]
    if job.spec.ablation == "shuffled-mask":
        masks = shuffled(masks, job.seeds["pruner"])
    else:
        run.initial = _redraw(job, run)
    run.state.best_validation = {}  # it was the other network's
    run.layers = gates.replace_gates(run.engine.model, run.layers, masks)
    reestimate_statistics(run.engine, calibration_batches(run.dataset, run.plan))


def shuffled(masks: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return each mask with its positions permuted at random, equal on every process."""
    return [_permute(mask, key(seed, "shuffled mask", index)) for index, mask in enumerate(masks)]


def _permute(mask: Tensor, seed: int) -> Tensor:
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed)).to(mask.device)
    return mask.reshape(-1)[order].reshape(mask.shape)


def _redraw(job: Job, run: Training) -> InitialNetwork:
    """Draw every prunable weight anew, write it, and return the start that the audit now goes by."""
    shapes = [tuple(layer.dense.shape) for layer in run.layers]
    drawn = models.redraw_weights(shapes, job.init, 1 - run.pruner.sparsity, job.seeds["init"])
    for layer, weight in zip(run.layers, drawn, strict=True):
        layer.dense.data.copy_(weight)  # frozen: no engine keeps another copy of it
    weights = {f"{layer.name}.weight": weight for layer, weight in zip(run.layers, drawn, strict=True)}
    return dataclasses.replace(run.initial, frozen={**(run.initial.frozen or {}), **weights})
