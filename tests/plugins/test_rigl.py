"""RigL's updates against the official ones in numpy; its schedule, first mask and options."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigl_cases import SHAPES, SIZES, Stepper, at, classifier, layers_of, official_update, train_steps
from torch import nn

from pruneboard.scores import erk, kept_of, uniform
from pruneboard_random import Random
from pruneboard_rigl import RigL, updated_mask

DENSITIES = st.floats(0.02, 1)
SEEDS = st.integers(0, 2**31)


def drawn(seed, density, shape=(7, 5, 3)):
    """A random mask, weights, momentum and gradient."""
    random = np.random.default_rng(seed)
    mask = (random.random(shape) < density).astype(float)
    return mask, random.normal(size=shape), random.normal(size=shape), random.normal(size=shape)


@given(SEEDS, DENSITIES, st.integers(1, 74))
@settings(deadline=None, max_examples=60)
def test_an_update_equals_the_official_one(seed, density, step):
    """From any state in float64, masks, weights and momentum equal those of the official update bit for bit."""
    pruner, net = RigL(sparsity=0.5, drop=0.87, interval=1), nn.Sequential(nn.Linear(15, 7, bias=False)).double()
    mask, weights, momentum, gradient = drawn(seed, density, (7, 15))
    (layer,) = layers_of(pruner, net)
    stepper = Stepper(net)
    layer.gate.set(torch.from_numpy(mask))
    stepper.assign(layer.dense, torch.from_numpy(weights))
    stepper.sgd.state[layer.dense]["momentum_buffer"] = torch.from_numpy(momentum.copy())
    now = at(pruner, step, 100, stepper)
    pruner.update([layer], [torch.from_numpy(gradient)], now)
    fraction = 0.87 / 2 * (1 + math.cos(math.pi * step / 75))  # no whole number of weights, which rounding could miss
    expected = official_update(mask, weights, momentum, gradient, fraction)
    found = (layer.gate.keep, layer.dense.detach(), stepper.momentum(layer.dense))
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.numpy(), theirs)


def test_training_equals_a_plain_implementation():
    """Over 60 steps with ten updates masks are equal, and weights and momentum agree to 1e-6."""
    pruner = RigL(sparsity=0.75, interval=4, updates=0, drop=0.5)
    net, images, labels = classifier()
    weights = [module.weight.detach().numpy().copy() for module in (net[0], net[2])]
    momenta, masks, came_back = [0.0, 0.0], [], 0
    for found in train_steps(pruner, 60):
        masks = masks or [mask.numpy() for mask in found.masks]  # the first update comes after the first step
        effective = [torch.from_numpy(w * m).requires_grad_() for w, m in zip(weights, masks, strict=True)]
        logits = torch.tanh(images @ effective[0].t()) @ effective[1].t()
        dense = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), effective)
        for i, gradient in enumerate(g.numpy() for g in dense):
            momenta[i] = 0.9 * momenta[i] + gradient * masks[i] + 0.02 * weights[i]
            weights[i] = weights[i] - 0.3 * momenta[i]
            if found.step % 4 == 0 and 0 < found.step < 45:
                fraction = 0.5 / 2 * (1 + math.cos(math.pi * found.step / 45))
                state = official_update(masks[i], weights[i], momenta[i], gradient, fraction)
                came_back += int(((masks[i] == 0) & (state[0] == 1)).sum())
                masks[i], weights[i], momenta[i] = state
        for ours, theirs in [(found.masks, masks), (found.dense, weights), (found.momenta, momenta)]:
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-6)
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(found.masks, masks, strict=True))
    assert came_back > 50


def scramble(layers, stepper):
    """Overwrite every pruned weight and its momentum by random numbers."""
    for layer in layers:
        gone = layer.gate.keep == 0
        for tensor in (layer.dense.data, stepper.momentum(layer.dense)):
            tensor[gone] = 100 * torch.randn(int(gone.sum()), dtype=tensor.dtype)


def test_stored_values_of_pruned_weights_are_never_read():
    """Other stored values and momenta under the mask change no mask and no kept weight."""
    pruner = RigL(sparsity=0.75, interval=4, updates=0, drop=0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for plain, other in zip(train_steps(pruner, 60), train_steps(pruner, 60, scramble), strict=True):
            for mask, theirs, a, b in zip(plain.masks, other.masks, plain.dense, other.dense, strict=True):
                assert torch.equal(mask, theirs)
                assert torch.equal(a * mask, b * mask)


@given(SEEDS, DENSITIES, st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_number_of_dropped_weights_is_rounded_down(seed, density, share):
    """Of c kept weights the floor(share c) smallest go, if enough pruned positions have larger gradients."""
    mask, weights, _, _ = (torch.from_numpy(array) for array in drawn(seed, density))
    before, gradient = mask.bool(), 1 + mask.numel() - torch.arange(mask.numel()).reshape(mask.shape) * (1 - mask)
    after = updated_mask(weights, before, gradient.where(~before, 1e-3), share)
    lost, kept = int((before & ~after).sum()), int(before.sum())
    assert int(after.sum()) == kept
    assert lost == min(math.floor(share * kept), int((~before).sum()))
    if 0 < lost < kept and lost == math.floor(share * kept):
        assert float(weights.abs()[before & ~after].max()) <= float(weights.abs()[before & after].min())


def test_a_kept_zero_ranks_above_a_pruned_weight():
    """A kept 0 outranks every pruned weight, which the official noise could return with its stored value."""
    weight, keep = torch.tensor([9.0, 0.0, 9.0, 2.0]), torch.tensor([False, True, False, True])
    gradient, same = torch.tensor([0.0, 5, 1, 0]), keep.tolist()
    assert updated_mask(weight, keep, gradient, 0.4).tolist() == same  # floor(.8) = 0 are dropped
    assert updated_mask(weight, keep, gradient, 0.5).tolist() == same  # one is dropped and grown again
    assert updated_mask(weight, keep, torch.tensor([0.0, 5, 6, 0]), 0.5).tolist() == [False, False, True, True]


def test_a_position_without_gradient_is_not_grown():
    """If all gradients of a unit are 0, dropped positions are kept instead of growing the first one."""
    weight, keep = torch.tensor([9.0, 1.0, 2.0, 3.0]), torch.tensor([False, True, True, True])
    assert updated_mask(weight, keep, torch.zeros(4), 1.0).tolist() == keep.tolist()
    assert updated_mask(weight, keep, torch.tensor([1e-30, 0, 0, 0]), 0.4).tolist() == [True, False, True, True]


def test_gradients_that_are_not_finite_change_no_mask():
    """A diverged run keeps its masks, so that the harness can report the divergence."""
    pruner, net = RigL(sparsity=0.5, interval=1), nn.Sequential(nn.Linear(15, 7)).double()
    (layer,) = layers_of(pruner, net)
    before = layer.gate.keep.clone()
    for bad in (math.nan, math.inf):
        pruner.update([layer], [torch.full((7, 15), bad, dtype=torch.float64)], at(pruner, 1, 40, Stepper(net)))
        assert torch.equal(layer.gate.keep, before)


# The schedule


def test_the_drop_fraction_falls_along_a_cosine():
    """The fraction is `drop` at 0, half of it at T / 2, the official value between, and 0 from T on."""
    pruner = RigL(sparsity=0.9, end=0.5)
    f = [pruner.drop_fraction(at(pruner, step, 400)) for step in (0, 50, 100, 150, 200, 399)]
    assert f == pytest.approx([0.3, 0.15 * (1 + math.sqrt(0.5)), 0.15, 0.15 * (1 - math.sqrt(0.5)), 0, 0], abs=1e-12)


def updates_of(pruner, total):
    """The steps of a run that end with an update."""
    return [step for step in range(total + 1) if pruner.wants_gradients(at(pruner, step, total))]


def test_long_budgets_have_the_published_interval():
    """With 19,600 steps an update follows every 100th below step 14,700; `updates=0` never shortens the interval."""
    assert updates_of(RigL(sparsity=0.9), 19_600) == list(range(100, 14_700, 100))
    assert updates_of(RigL(sparsity=0.9, updates=0), 160) == [100]


def test_short_budgets_have_a_shorter_interval():
    """With 160 steps T is 120, and an interval of 7 fits the sixteen updates."""
    assert updates_of(RigL(sparsity=0.9), 160) == list(range(7, 120, 7))


@given(st.integers(0, 3000), st.integers(1, 300), st.integers(0, 40), st.floats(0.01, 1))
@settings(deadline=None, max_examples=60)
def test_updates_are_evenly_spaced_within_the_search(total, interval, updates, end):
    """Updates are evenly spaced by at most `interval`, lie in (0, T), and are `updates` or more if T allows."""
    pruner = RigL(sparsity=0.9, interval=interval, updates=updates, end=end)
    found, last = updates_of(pruner, total), round(end * total)
    assert all(0 < step < last for step in found)
    assert len(found) >= min(updates, max(0, last - 1))
    gaps = {late - early for early, late in itertools.pairwise([0, *found])}
    assert len(gaps) <= 1
    assert gaps <= set(range(1, interval + 1))
    if last > interval:
        assert last - (found or [0])[-1] <= interval


# The start


@pytest.mark.parametrize("allocation", ["erk", "uniform"])
@given(st.floats(0, 0.995))
@settings(deadline=None, max_examples=20)
def test_the_first_mask_has_the_allocations_counts(allocation, sparsity):
    """The first mask has the allocation's counts, which sum exactly to the budget, and later steps draw nothing."""
    pruner = RigL(sparsity=sparsity, allocation=allocation)
    layers, k = layers_of(pruner), kept_of(sum(SIZES), sparsity)
    pruner.before_step(layers, at(pruner, 0, 100))
    masks = [layer.gate.keep.clone() for layer in layers]
    counts = [int(mask.sum()) for mask in masks]
    assert counts == (erk(SHAPES, k) if allocation == "erk" else uniform(SIZES, k))
    assert sum(counts) == k
    assert all(count <= size for count, size in zip(counts, SIZES, strict=True))
    pruner.before_step(layers, at(pruner, 1, 100))
    assert all(torch.equal(layer.gate.keep, mask) for layer, mask in zip(layers, masks, strict=True))


def test_the_first_mask_equals_that_of_the_random_control():
    """With equal seeds and allocations, RigL and the random control start from the same mask."""
    masks = []
    for pruner in (RigL(sparsity=0.9), Random(sparsity=0.9, allocation="erk")):
        layers = layers_of(pruner)
        pruner.before_step(layers, at(pruner, 0, 100))
        masks.append([layer.gate.keep for layer in layers])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_a_search_without_steps_still_draws_a_mask():
    """If T rounds to 0, hardening draws the mask and changes no weight, even one that starts at 0."""
    pruner = RigL(sparsity=0.9, end=0.01)
    layers = layers_of(pruner)
    torch.nn.init.zeros_(layers[0].dense)
    pruner.harden(layers, at(pruner, 0, 8), lambda: 0.0)
    assert not layers[0].dense.any()
    assert sum(int(layer.gate.keep.sum()) for layer in layers) == kept_of(sum(SIZES), 0.9)


def test_grown_zeros_become_the_smallest_number_at_the_end():
    """At hardening a grown weight that is still 0 becomes the smallest normal number; dense layers stay."""
    pruner, net = RigL(sparsity=0.5), nn.Sequential(nn.Linear(15, 7), nn.Linear(7, 3))
    layers = layers_of(pruner, net)
    layers[0].gate.set(torch.arange(105).reshape(7, 15) % 2)
    with torch.no_grad():
        for layer in layers:
            layer.dense[0] = 0
    before = [layer.dense.detach().clone() for layer in layers]
    pruner.harden(layers, at(pruner, 75, 100, Stepper(net)), lambda: 0.0)
    changed = [layer.dense.detach() != old for layer, old in zip(layers, before, strict=True)]
    assert torch.equal(changed[0], (before[0] == 0) & (layers[0].gate.keep == 1))
    assert set(layers[0].dense[changed[0]].tolist()) == {torch.finfo(torch.float32).tiny}
    assert not changed[1].any()


def test_traits():
    """RigL hardens at `end`, takes one pass per step, hits its target, is not a control, and runs on `prune` only."""
    traits = RigL(sparsity=0.9, end=0.7).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.7, True, 1, None)
    assert RigL.tracks == {"prune"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"allocation": "global"}, "erk or uniform; found 'global'"),
        ({"drop": 1.5}, r"\[0, 1\]; found 1.5"),
        ({"drop": math.nan}, r"\[0, 1\]; found nan"),
        ({"interval": 0}, "1 step or more, and updates 0 or more; found 0, 16"),
        ({"updates": -1}, "1 step or more, and updates 0 or more; found 100, -1"),
        ({"end": 0.0}, r"\(0, 1\]; found 0.0"),
        ({"end": math.nan}, r"\(0, 1\]; found nan"),
    ],
)
def test_invalid_options_are_rejected(bad, message):
    """An option out of range raises a ValueError that names the allowed values and the value found."""
    with pytest.raises(ValueError, match=message):
        RigL(sparsity=0.9, **bad)
