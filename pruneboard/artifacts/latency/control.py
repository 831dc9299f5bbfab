"""The control: the same network without a zero. What takes as long with it gains nothing from zeros."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.artifacts.exporting.subject import Subject

SHARE = 0.1
"""Deviation of what stands in the place of zeros, as a share of the root mean square of the layer's weights: small
enough for activations to keep their size through any depth, and far from what processors treat as a special case."""


def filled(subject: Subject) -> Subject:
    """Return a copy whose prunable weights have small random numbers in the place of zeros."""
    network = copy.deepcopy(subject.network)
    generator = torch.Generator().manual_seed(draws.key(0, "latency control"))
    with torch.no_grad():
        for name in subject.weights:
            weight = network.get_parameter(name)
            weight.copy_(_without_zeros(weight, generator))
    return dataclasses.replace(subject, network=network, state=dict(network.state_dict()))


def _without_zeros(weight: Tensor, generator: torch.Generator) -> Tensor:
    scale = SHARE * (float(weight.square().mean().sqrt()) or 1.0)
    drawn = scale * torch.randn(weight.shape, generator=generator)
    drawn[drawn == 0] = scale
    return torch.where(weight == 0, drawn, weight)
