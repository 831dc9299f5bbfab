"""Build the training of a job: network, gates, engine and checkpointer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruneboard import models, registry
from pruneboard.data import Dataset
from pruneboard.experiment.prepare import Job, micro_batch
from pruneboard.processes import phases
from pruneboard.processes.world import World
from pruneboard.records import provenance
from pruneboard.training.checkpoint import Checkpointer
from pruneboard.training.setup import TrainingOptions, build_training
from pruneboard.training.state import Listener, Training


def build_from_job(job: Job, dataset: Dataset, device: torch.device, listener: Listener, start_time: float) -> Training:
    """Build network, gates and engine of a job.

    Args:
        job: the resolved run.
        dataset: its images.
        device: device of this process.
        listener: observes the run.
        start_time: start time of this attempt (`time.perf_counter`).
    """
    phases.report("building the network")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # float32 means float32: by default cuDNN's convolutions would round their inputs to the 10 bits of TF32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
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


def initial_model(job: Job, sparsity: float) -> nn.Module:
    """Build the network with its initial weights; on the supermask track all of them are frozen."""
    if job.track == "supermask":
        return models.build_frozen(job.plan, init=job.init, keep_ratio=1 - sparsity, seed=job.seeds["init"])
    return models.build_model(job.plan, init=job.init, seed=job.seeds["init"])


def checkpointer(job: Job) -> Checkpointer:
    """Return the object that saves and restores the run.

    A checkpoint can be resumed only if the content hash and the code of pruneboard and of the method are unchanged.
    """
    identity = {"content hash": job.hash, **provenance.code_versions(job.info.target)}
    return Checkpointer(job.folder, job.spec.checkpoint_every, identity)


def attempt_entry(job: Job, run: Training) -> dict[str, Any]:
    """Return this attempt's entry for `lifecycle.attempts` of the record; the loop adds the step it starts at."""
    return {
        "started": provenance.now(),
        "world_size": run.engine.world,
        "zero": job.spec.zero,
        "device": run.engine.device.type,
    }
