"""A control for latency: the same network with its zeros filled. An engine that is no slower on it skips no zeros."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.artifacts.finished_run import FinishedRun

SHARE = 0.1
"""Standard deviation of the filled-in numbers, relative to the root mean square of the layer's weights: small enough
that activations keep their scale at any depth, but far from denormal numbers, which processors treat specially."""


def fill_zeros(run: FinishedRun) -> FinishedRun:
    """Return a copy of a run whose prunable weights have small random numbers in place of zeros."""
    network = copy.deepcopy(run.network)
    generator = torch.Generator().manual_seed(draws.key(0, "latency control"))
    with torch.no_grad():
        for name in run.weights:
            weight = network.get_parameter(name)
            weight.copy_(_without_zeros(weight, generator))
    return dataclasses.replace(run, network=network, state=dict(network.state_dict()))


def _without_zeros(weight: Tensor, generator: torch.Generator) -> Tensor:
    scale = SHARE * (float(weight.square().mean().sqrt()) or 1.0)
    drawn = scale * torch.randn(weight.shape, generator=generator)
    drawn[drawn == 0] = scale
    return torch.where(weight == 0, drawn, weight)
