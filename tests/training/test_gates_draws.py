"""Random draws of gates and hooks depend on their key only: seed, step, forward pass and layer."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gate_cases import Noise, Noisy, gated, images, network
from pruneboard.models import prunable_layers
from pruneboard.training.gates import (
    DrawKey,
    attach,
)

PLACES = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1), st.integers(0, 2))


@functools.cache
def noisy(seed):
    """Return one gated network per seed; building it takes longer than drawing."""
    return gated(Noisy(sparsity=0.5), seed)


def drawn(place) -> list[float]:
    """Return what the gate draws at (seed, step, forward pass, layer)."""
    seed, step, forward_pass, index = place
    _, layers, draw_key = noisy(seed)
    draw_key.step, draw_key.forward_pass = step, forward_pass
    return torch.rand(4, generator=layers[index].gate.draw()).tolist()


@given(PLACES, PLACES)
@settings(deadline=None, max_examples=40)
def test_draws_are_keyed_on_seed_step_pass_and_layer(one, other):
    """Equal keys give the same numbers, different keys others, and the global generator does not move."""
    before = torch.get_rng_state()
    assert (drawn(one) == drawn(other)) is (one == other)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_draws_with_one_key_are_equal():
    """Every draw uses a new generator, so nothing is carried from one to the next."""
    net, layers, draw_key = gated(Noisy(sparsity=0.5))
    assert torch.equal(net(images()), net(images()))
    gate, first = layers[0].gate, layers[0].gate.draw().initial_seed()
    draw_key.step += 1
    assert gate.draw().initial_seed() != first


def test_hooks_and_gates_draw_different_numbers():
    """The generator of a hook, for a layer or for the network, is not that of a gate."""
    draw_key = DrawKey(0)
    seeds = [draw_key.hook_generator(i).initial_seed() for i in (-1, 0, 1)]
    seeds += [draw_key.gate_generator(i, torch.device("cpu")).initial_seed() for i in (0, 1)]
    assert len(set(seeds)) == 5
    assert draw_key.hook_generator(1).initial_seed() == DrawKey(0).hook_generator(1).initial_seed()


def test_an_unattached_gate_cannot_draw():
    """It has no key yet, and the error says so."""
    with pytest.raises(RuntimeError, match="not attached to a model"):
        Noise(torch.ones(2)).draw()


def test_draws_follow_the_weight_to_its_device():
    """Gates are attached before the network moves: a draw uses the device of the weight at that time."""

    class Recorder(DrawKey):
        def gate_generator(self, index, device):
            self.device = device
            return torch.Generator()

    draw_key = Recorder(0)
    net = network()
    layers = attach(Noisy(sparsity=0.5), prunable_layers(net), draw_key, hits_target=True)
    layers[0].gate.draw()
    assert draw_key.device.type == "cpu"
    torch.utils.swap_tensors(layers[0].dense, nn.Parameter(layers[0].dense.detach().to("meta")))
    layers[0].gate.draw()
    assert draw_key.device.type == "meta"


def test_a_gated_network_trains_on_a_gpu(cuda):
    """A gate that was attached on the CPU draws on the GPU after its network has moved."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    net.cuda()
    assert layers[0].gate.draw().device.type == "cuda"
    net(images().cuda()).sum().backward()
    assert layers[0].dense.grad.device.type == "cuda"
