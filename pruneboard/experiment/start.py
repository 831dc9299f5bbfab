"""Build the training of a job: network, gates, engine and checkpointer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruneboard import models, registry
from pruneboard.data import Dataset
from pruneboard.experiment.prepare import Job, micro_batch
from pruneboard.processes.world import World
from pruneboard.records import provenance
from pruneboard.training.checkpoint import Checkpointer
from pruneboard.training.setup import TrainingOptions, build_training
from pruneboard.training.state import Listener, Training


def build_from_job(job: Job, dataset: Dataset, device: torch.device, listener: Listener, start_time: float) -> Training:
    """Build model, gates and engine; `start_time` is the start time of this attempt (`time.perf_counter`)."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    pruner = registry.build(job.info, job.spec.sparsity, job.spec.options)
    options = TrainingOptions(
        pruner=pruner,
        traits=job.traits,
        method=job.info.origin,
        recipe=job.recipe,
        seeds=job.seeds,
        micro_batch=micro_batch(job.recipe, job.plan, World.current().size),
        device=device,
        checkpointer=checkpointer(job),
        zero=job.spec.zero,
        precision=job.spec.precision,
    )
    compiled = job.spec.model if job.spec.compile else None
    return build_training(options, initial_model(job, pruner.sparsity), dataset, listener, start_time, compiled)


def checkpointer(job: Job) -> Checkpointer:
    """Return the object that saves and restores the run."""
    return Checkpointer(
        job.folder, job.spec.checkpoint_every, {"content hash": job.hash, **provenance.code(job.info.target)}
    )


def attempt_entry(job: Job, run: Training) -> dict[str, Any]:
    """Return the record's entry for this attempt, without the step that it resumes from."""
    return {
        "started": provenance.now(),
        "world_size": run.engine.world,
        "zero": job.spec.zero,
        "device": run.engine.device.type,
    }


def initial_model(job: Job, sparsity: float) -> nn.Module:
    """Build the network with its initial weights: all of them frozen on the supermask track."""
    if job.track == "supermask":
        return models.build_frozen(job.plan, init=job.init, keep_ratio=1 - sparsity, seed=job.seeds["init"])
    return models.build_model(job.plan, init=job.init, seed=job.seeds["init"])
