"""Trainings as the harness builds them, before their first step."""

from __future__ import annotations

import torch

from pruneboard.experiment import start
from pruneboard.experiment.listeners import NullListener
from pruneboard.experiment.prepare import prepare
from runs import tiny


def built(place, method="magnitude", sparsity=0.9, **changes):
    """Return the training of a tiny run. Close its engine in the end."""
    job, dataset = prepare(tiny(place, method, sparsity, **changes))
    return start.build_from_job(job, dataset, torch.device("cpu"), NullListener(), 0.0)
