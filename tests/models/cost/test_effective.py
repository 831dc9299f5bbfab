"""Counting alive weights: networks give the same output without disconnected weights."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import networks
from path_cases import FAMILIES, OneLayer, without_constants
from pruneboard.models import prunable_layers
from pruneboard.models.cost import alive_weights, count_alive


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_give_the_same_output_without_disconnected_weights(name):
    """Without constants, removing the disconnected weights changes no output; in each network there are some."""
    size = FAMILIES[name]
    net = without_constants(name, 0.97)
    alive = alive_weights(net, size)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = net(images)
        left = sum(int((layer.weight != 0).sum()) for _, layer in prunable_layers(net))
        for path, layer in prunable_layers(net):
            assert not (alive[path] & (layer.weight == 0)).any()
            layer.weight *= alive[path]
        after = net(images)
    assert sum(int(mask.sum()) for mask in alive.values()) < left
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def test_a_shared_weight_is_alive_if_one_of_its_layers_needs_it():
    """A shared weight counts once, and all its uses are followed."""
    net = networks.Tied()
    with torch.no_grad():
        net.first.weight.copy_(torch.eye(24))
    assert count_alive(net, 32).alive["first"] == 24


def test_counting_does_not_change_the_network():
    """Weights, modes, gradients and random state stay the same, even if the network is undecided."""
    undecided = OneLayer(lambda x, _: x.cumsum(1))
    for net, size in ((timm.create_model("test_resnet", drop_rate=0.5).train(), 64), (undecided.train(), 1)):
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        random = torch.get_rng_state()
        count_alive(net, size)
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert all(type(p) is nn.Parameter and p.grad is None for p in net.parameters())
        assert all(module.training for module in net.modules())
        assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.gpu
def test_counts_are_equal_on_a_gpu():
    """All values are small integers, so the order of summation makes no difference."""
    for name in ("test_resnet", "test_vit"):
        net, size = without_constants(name, 0.97), FAMILIES[name]
        assert count_alive(net, size).alive == count_alive(net.cuda(), size).alive
