"""Folding gates into plain weights: same keys, same outputs, independent copies."""

from __future__ import annotations

import copy
import itertools
import math

import torch

from gate_cases import Noisy, gated, images, network, with_masks
from pruneboard.models import prunable_layers
from pruneboard.training.gates import (
    fold,
    folded_weights,
)


def test_folding_gives_the_plain_networks_state():
    """Same keys in the same order, contiguous tensors of the same shapes and dtypes, and a strict load works."""
    net, layers = with_masks()
    state, plain = fold(net, layers), network()
    expected = plain.state_dict()
    assert list(state) == list(expected)
    assert all(state[k].shape == v.shape and state[k].dtype == v.dtype for k, v in expected.items())
    assert all(tensor.is_contiguous() for tensor in state.values())
    plain.load_state_dict(state, strict=True)


def test_the_folded_network_computes_what_the_gated_one_does():
    """Evaluation outputs agree to the last bit, and the pruned positions are zeros."""
    net, layers = with_masks()
    net(images())  # running statistics that are not the initial ones
    plain = network()
    plain.load_state_dict(fold(net, layers))
    assert torch.equal(plain.eval()(images()), net.eval()(images()))
    zeros = sum(int((module.weight == 0).sum()) for _, module in prunable_layers(plain))
    assert zeros == sum(x.dense.numel() - math.ceil(x.dense.numel() / 3) for x in layers)


def test_a_folded_state_is_a_copy():
    """Later training does not change it."""
    net, layers = with_masks()
    state = fold(net, layers)
    before = copy.deepcopy(state)
    with torch.no_grad():
        for tensor in itertools.chain(net.parameters(), net.buffers()):
            tensor.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_a_folded_state_is_contiguous():
    """The layout in the file does not depend on the memory format of training."""
    net, layers = with_masks(network().to(memory_format=torch.channels_last))
    plain, plain_layers = with_masks()
    state, expected = fold(net, layers), fold(plain, plain_layers)
    assert all(state[k].is_contiguous() and torch.equal(state[k], expected[k]) for k in expected)


def test_folding_uses_the_evaluation_forward():
    """A noisy gate is folded without its noise, and stays in training mode."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    net.train()
    (first, *_) = folded_weights(layers)
    assert torch.equal(first, layers[0].dense)
    assert all(layer.gate.training for layer in layers)
    assert not first.requires_grad
