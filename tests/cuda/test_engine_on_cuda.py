"""The engine on simulated GPUs: it trains as on the CPU, and makes the host wait only where it must."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engine_cases import STAGES, engine_at, train


def trained_weights(device, zero=0):
    """The weights after two steps."""
    with engine_at(zero, clip=0.5, device=device) as engine:
        train(engine, range(2))
        return [parameter.detach().cpu() for parameter in engine.model.parameters()]


@pytest.mark.parametrize("zero", STAGES)
def test_training_on_cuda_equals_training_on_the_cpu(rehearsed, zero):
    """At every ZeRO stage an engine on CUDA ends with the weights of one on the CPU; both run in one process."""
    for expected, found in zip(trained_weights("cpu", zero), trained_weights("cuda", zero), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_engines_on_both_devices_can_follow_each_other(rehearsed):
    """CPU, CUDA, CPU: DeepSpeed uses the accelerator of each engine, and results do not depend on what ran before."""
    from deepspeed.accelerator import get_accelerator

    weights, kinds = [], []
    for device in ("cpu", "cuda:1", "cpu"):
        weights.append(trained_weights(device))
        kinds.append((get_accelerator().device_name(), torch.distributed.get_backend()))
    assert kinds == [("cpu", "gloo"), ("cuda", "nccl"), ("cpu", "gloo")]
    assert all(map(torch.equal, weights[0], weights[2]))


@pytest.mark.parametrize("zero", STAGES)
def test_forward_and_backward_make_the_host_wait_for_nothing(rehearsed, zero):
    """After the first steps, forward and backward passes synchronize nothing, and no step waits for a timer."""
    with engine_at(zero, clip=0.5, device="cuda") as engine:
        train(engine, range(3))
        images, labels = torch.ones(8, 3, 8, 8, device="cuda"), torch.arange(8, device="cuda")
        rehearsed.counts.clear()
        with rehearsed.counts.at("passes"):
            engine.backward(functional.cross_entropy(engine.forward(images), labels), last=True)
        with rehearsed.counts.at("step"):
            engine.step()
        assert not rehearsed.counts.kinds("passes")
        assert "torch.cuda.synchronize" not in rehearsed.counts.kinds("step")
