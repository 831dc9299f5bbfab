"""A network small enough to train in float64, step by step, beside a plain implementation of a method."""

from __future__ import annotations

import torch
from torch import nn


def classifier():
    """Two linear layers in float64, and a batch to train them on."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32, bias=False), nn.Tanh(), nn.Linear(32, 8, bias=False)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 3)
    images = torch.randn(64, 20, dtype=torch.float64, generator=generator)
    return net, images, torch.randint(8, (64,), generator=generator)
