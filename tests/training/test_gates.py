"""Gates in, plain weights out: attach, fold, the checks on a stranger's gate, and keyed draws."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruneboard.api import Gate, Mask, MaskPruner, Pruner
from pruneboard.errors import PluginError, UsageError
from pruneboard.models import prunable_layers
from pruneboard.scores import budget, set_masks
from pruneboard.training.gates import (
    DrawKey,
    attach,
    cached_weights,
    fold,
    folded_weights,
    gate_parameters,
    gate_tensors,
    gated_weights,
)


class Noise(Gate):
    """Adds keyed noise while training; has a parameter and a buffer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * self.scale
        noise = torch.rand(weight.shape, generator=self.draw(), device=weight.device)
        return weight * self.scale + noise


@dataclass(frozen=True, kw_only=True)
class Masked(MaskPruner):
    """A mask that keeps everything until told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Noisy(Pruner[Noise]):
    """Uses the noisy gate."""

    def gate(self, weight: Tensor) -> Noise:
        return Noise(weight)


def network() -> nn.Module:
    """Return a small network with biases, normalization, and nested layers; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 6, 3, bias=False, groups=2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1)),
            nn.Flatten(),
            nn.Linear(6, 5),
        )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net


def gated(pruner, seed=0, *, net=None, hits_target=True):
    """Return a network with gates, its layers and its draw_key."""
    net = net or network()
    draw_key = DrawKey(seed)
    return net, attach(pruner, prunable_layers(net), draw_key, hits_target=hits_target), draw_key


def images(n=6) -> Tensor:
    """Return a batch of images, always the same."""
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def with_masks(net=None):
    """Return a masked network whose masks keep every third weight, and its layers."""
    net, layers, _ = gated(Masked(sparsity=0.5), net=net)
    set_masks(layers, [(torch.arange(x.dense.numel()) % 3 == 0).reshape(x.dense.shape) for x in layers])
    return net, layers


# Attach


@given(st.floats(0, 0.99))
@settings(deadline=None, max_examples=30)
def test_the_layers_carry_the_boards_budget(sparsity):
    """`keep` sums to n - round(s n) and fits every layer, at any sparsity."""
    _, layers, _ = gated(Masked(sparsity=sparsity))
    n = sum(layer.dense.numel() for layer in layers)
    assert budget(layers) == n - round(sparsity * n)
    assert all(0 <= layer.keep <= layer.dense.numel() for layer in layers)


def test_layers_stand_in_order_with_their_own_weights():
    """Index, name and dense weight are those of the plain network, and training still reaches them."""
    plain = dict(network().named_parameters())
    net, layers, _ = gated(Masked(sparsity=0.5))
    assert [(layer.index, layer.name) for layer in layers] == [(0, "0"), (1, "3.0"), (2, "5")]
    for layer in layers:
        assert torch.equal(layer.dense, plain[f"{layer.name}.weight"])
        assert any(layer.dense is parameter for parameter in net.parameters())


def test_no_budget_where_sparsity_emerges():
    """A pruner that declares hits_target=False gets no number to aim at."""
    _, layers, _ = gated(Masked(sparsity=0.5), hits_target=False)
    assert [layer.keep for layer in layers] == [None] * 3


def test_a_sparsity_that_keeps_nothing_is_refused():
    """A network without any weight is a mistake, not a result."""
    with pytest.raises(UsageError, match="keeps none of the 246 prunable weights: lower it"):
        gated(Masked(sparsity=0.9999))


def test_an_open_gate_changes_no_bit():
    """With every position kept, training and evaluation are those of the plain network."""
    plain, (net, _, _) = network(), gated(Masked(sparsity=0.5))
    for mode in (True, False):
        plain.train(mode)
        net.train(mode)
        assert torch.equal(net(images()), plain(images()))


def test_attaching_draws_nothing_and_evaluates_no_training_forward():
    """A gate that may not draw yet is attached all the same, and the global generator is left alone."""
    before = torch.get_rng_state()
    gated(Noisy(sparsity=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gate_is_evaluated_once_per_forward_pass():
    """However often a layer's weight is used, there is one draw."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    calls = []
    layers[2].gate.register_forward_hook(lambda *_: calls.append(1))
    with cached_weights(gated_weights(net)):
        net[5](torch.ones(1, 6))
        net[5](torch.ones(1, 6))
    assert len(calls) == 1


# What a gate must be


class Zero(Gate):
    def __init__(self, weight):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.0))

    def forward(self, weight):
        return weight


class Flat(Gate):
    def forward(self, weight):
        return weight.flatten()


class Double(Gate):
    def forward(self, weight):
        return weight.double()


def refused(make) -> str:
    """Return the one line with which `attach` refuses the gates that `make` returns."""

    @dataclass(frozen=True, kw_only=True)
    class Broken(Pruner[Gate]):
        def gate(self, weight):
            return make(weight)

    with pytest.raises(PluginError) as caught:
        gated(Broken(sparsity=0.5))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gate_of_another_type_is_refused():
    """A plain module is no gate."""
    assert "must return a pruneboard.api.Gate; for layer 0 it returned" in refused(lambda _: nn.Identity())
    assert "NoneType" in refused(lambda _: None)


def test_a_parameter_without_dimension_is_refused():
    """DeepSpeed cannot hold it; the remedy is in the line."""
    assert refused(Zero) == ("gate parameter 'threshold' is 0-dimensional, which DeepSpeed cannot hold: use shape (1,)")


def test_a_gate_that_changes_the_shape_is_refused():
    """Both shapes and the layer are named."""
    text = refused(lambda _: Flat())
    assert text.startswith("the gate of layer 0 turns (4, 3, 3, 3) torch.float32 into (108,) torch.float32")


def test_a_gate_that_changes_the_dtype_is_refused():
    """Both types are named."""
    assert "(4, 3, 3, 3) torch.float32 into (4, 3, 3, 3) torch.float64: it must keep shape and dtype" in refused(
        lambda _: Double()
    )


# The ready-made mask


def test_a_mask_keeps_everything_at_first():
    """Its buffer is ones of the weight's shape and dtype, and all positions count as kept."""
    weight = network()[0].weight
    mask = Mask(weight)
    assert torch.equal(mask.keep, torch.ones_like(weight))
    assert bool(mask.kept(weight).all())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_mask_is_set_whatever_the_memory_format(memory_format):
    """A buffer that was moved to channels-last takes a contiguous mask, and gives its positions back."""
    weight = network()[0].weight.detach()
    mask = Mask(weight).to(memory_format=memory_format)
    keep = (torch.arange(weight.numel()) % 5 == 0).reshape(weight.shape)
    mask.set(keep)
    assert mask.keep.is_contiguous(memory_format=memory_format)
    assert torch.equal(mask.kept(weight), keep)
    assert torch.equal(mask(weight), weight * keep)


def test_a_mask_hides_the_gradient_of_pruned_weights():
    """Kept weights receive the dense gradient, the others exactly 0."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    mask = Mask(weight)
    mask.set(torch.tensor([True, False, True]))
    (mask(weight) * torch.tensor([5.0, 7.0, 9.0])).sum().backward()
    assert weight.grad.tolist() == [5.0, 0.0, 9.0]


def test_a_kept_zero_still_counts_as_kept():
    """What the mask keeps does not depend on what the weight holds."""
    mask = Mask(torch.zeros(2))
    mask.set(torch.tensor([1, 0]))
    assert mask.kept(torch.zeros(2)).tolist() == [True, False]


# Fold


def test_folding_gives_the_plain_networks_state():
    """Same keys in the same order, contiguous tensors of the same shapes and types, and a strict load works."""
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
    """Training on does not move what was folded."""
    net, layers = with_masks()
    state = fold(net, layers)
    before = copy.deepcopy(state)
    with torch.no_grad():
        for tensor in itertools.chain(net.parameters(), net.buffers()):
            tensor.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_folding_a_channels_last_network_is_contiguous():
    """The file's layout does not depend on the memory format of training."""
    net, layers = with_masks(network().to(memory_format=torch.channels_last))
    plain, plain_layers = with_masks()
    state, expected = fold(net, layers), fold(plain, plain_layers)
    assert all(state[k].is_contiguous() and torch.equal(state[k], expected[k]) for k in expected)


def test_folding_uses_the_evaluation_forward_and_leaves_the_mode():
    """A noisy gate folds without its noise, and goes on training as before."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    net.train()
    (first, *_) = folded_weights(layers)
    assert torch.equal(first, layers[0].dense)
    assert all(layer.gate.training for layer in layers)
    assert not first.requires_grad


def test_gate_state_is_named_by_layer():
    """Parameters and buffers of every gate are found; only parameters train."""
    _, layers, _ = gated(Noisy(sparsity=0.5))
    names = [f"{layer}/{tensor}" for layer in ("0", "3.0", "5") for tensor in ("scale", "shift")]
    assert list(gate_tensors(layers)) == names
    assert [p.shape for p in gate_parameters(layers)] == [(1,)] * 3
    layers[0].gate.scale.requires_grad_(False)
    assert len(gate_parameters(layers)) == 2
    assert gate_parameters(with_masks()[1]) == []


# Draws

PLACES = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1), st.integers(0, 2))


@functools.cache
def noisy(seed):
    """Return one gated network per seed: building it takes longer than drawing."""
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
    """Equal places draw the same numbers, different ones others, and the global generator is untouched."""
    before = torch.get_rng_state()
    assert (drawn(one) == drawn(other)) is (one == other)
    assert torch.equal(torch.get_rng_state(), before)


def test_drawing_twice_gives_the_same_numbers():
    """A generator is asked for anew each time: nothing is carried along."""
    net, layers, draw_key = gated(Noisy(sparsity=0.5))
    assert torch.equal(net(images()), net(images()))
    gate, first = layers[0].gate, layers[0].gate.draw().initial_seed()
    draw_key.step += 1
    assert gate.draw().initial_seed() != first


def test_hooks_and_gates_draw_different_numbers():
    """A hook's generator for a layer, or for all, is not the one its gate gets."""
    draw_key = DrawKey(0)
    seeds = [draw_key.hook_generator(i).initial_seed() for i in (-1, 0, 1)]
    seeds += [draw_key.gate_generator(i, torch.device("cpu")).initial_seed() for i in (0, 1)]
    assert len(set(seeds)) == 5
    assert draw_key.hook_generator(1).initial_seed() == DrawKey(0).hook_generator(1).initial_seed()


def test_a_gate_outside_the_harness_cannot_draw():
    """There is no key yet, and the error says so."""
    with pytest.raises(RuntimeError, match="not attached to a model"):
        Noise(torch.ones(2)).draw()


def test_draws_follow_the_weight_to_its_device():
    """Gates are attached before the model moves: the device is the weight's at the time of the draw."""

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


@pytest.mark.gpu
def test_a_gated_network_trains_on_a_gpu():
    """A gate attached on the CPU draws on the GPU once its network is there."""
    net, layers, _ = gated(Noisy(sparsity=0.5))
    net.cuda()
    assert layers[0].gate.draw().device.type == "cuda"
    net(images().cuda()).sum().backward()
    assert layers[0].dense.grad.device.type == "cuda"
