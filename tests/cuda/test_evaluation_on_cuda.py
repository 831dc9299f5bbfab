"""Evaluation on simulated GPUs."""

from __future__ import annotations

import torch
from torch import nn

from engine_cases import engine_at
from pruneboard.training.evaluate import reestimate_statistics


def images(device):
    """Three batches of images, the same at every call."""
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 3, 8, 8, generator=generator).to(device), None) for _ in range(3)]


def reestimated(device, counts=None):
    """The re-estimated statistics of a network's batch normalization; the work is counted as stage `statistics`."""
    with engine_at(0, device=device) as engine:
        batches = images(device)
        if counts is None:
            reestimate_statistics(engine, batches)
        else:
            with counts.at("statistics"):
                reestimate_statistics(engine, batches)
        (norm,) = (module for module in engine.model.modules() if isinstance(module, nn.BatchNorm2d))
        assert norm.momentum == 0.1
        assert norm.num_batches_tracked == 3
        return norm.running_mean.cpu(), norm.running_var.cpu()


def test_statistics_are_reestimated_without_making_the_host_wait(rehearsed):
    """The averages over three batches are those of the CPU, and no number is read from the device."""
    found = reestimated("cuda", rehearsed.counts)
    assert not rehearsed.counts.kinds("statistics")
    for value, expected in zip(found, reestimated("cpu"), strict=True):
        torch.testing.assert_close(value, expected)


def test_averages_have_the_bits_of_torchs_own(rehearsed):
    """On the CPU the result equals that of the momentum None, which torch defines as the plain average."""
    with engine_at(0) as engine:
        (norm,) = (module for module in engine.model.modules() if isinstance(module, nn.BatchNorm2d))
        norm.reset_running_stats()
        norm.momentum = None
        with torch.no_grad():
            for batch, _ in images("cpu"):
                engine.forward(batch)
        expected = norm.running_mean.clone(), norm.running_var.clone()
    assert all(map(torch.equal, reestimated("cpu"), expected))
