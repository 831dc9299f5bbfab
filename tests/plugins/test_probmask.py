"""ProbMask's schedules, hardening and options."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probmask_cases import EPOCHS, FEW, generator, official_inverse_temperature, official_rate
from torch import nn

from pruneboard.api import Layer, Progress
from pruneboard.errors import UsageError
from pruneboard_probmask import ProbMask, sample
from runs import folder as run_folder
from runs import run
from verify_cases import found
from writer import Writer


def at_step(step, total=320, harden_step=300):
    """The state that hooks receive at `step` of a run of 320 steps that hardens at 300."""
    phase = "search" if step < harden_step else "finetune"
    return Progress(step, total, harden_step, phase, lambda index: generator(index + 1), Writer())


def layers_of(pruner, *shapes):
    """Layers of random weights behind the pruner's gates, as the harness builds them."""
    built = []
    for index, shape in enumerate(shapes):
        weight = nn.Parameter(torch.randn(shape, generator=generator(index)))
        n = weight.numel()
        keep = n - round(pruner.sparsity * n)
        built.append(Layer(index, f"layer{index}", weight, pruner.gate(weight.detach()), keep))
    return built


# Schedules


def test_temperature_falls_linearly():
    """1/T falls linearly from 1 to 0.03: T is 1.18, 1.94, 5.2 and 33.3 at epochs 48, 150, 250 and 300 of 300."""
    pruner = ProbMask(sparsity=0.9)
    found = [pruner.inverse_temperature(epoch / 300) for epoch in (0, 48, 150, 250, 300)]
    np.testing.assert_allclose(found, [1, 1.1837, 1.9417, 5.2174, 33.333], rtol=1e-3)


def test_budget_follows_the_official_cubic():
    """The kept share is 1 until .16 of the search, follows the paper's cubic until .6, and then equals the target."""
    pruner = ProbMask(sparsity=0.9)
    rate = [0.1 + 0.9 * pruner.kept_share(epoch / 300) for epoch in (47, 48, 49, 60, 80, 100, 120, 150, 180, 299)]
    np.testing.assert_allclose(rate, [1, 1, 0.980, 0.776, 0.491, 0.300, 0.185, 0.111, 0.1, 0.1], atol=1e-3)


@FEW
@given(st.floats(0, 0.98), st.floats(0.01, 1), st.floats(0, 0.99), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_schedules_are_monotone_and_exact_at_the_ends(begin, length, sparsity, fractions):
    """The kept share never rises, T never falls, and both are exact at the ends: 1 and 0, 1 and 1 / 0.03."""
    end = min(1.0, begin + length)
    pruner = ProbMask(sparsity=sparsity, begin=begin, end=end)
    ordered = sorted(fractions)
    shares = [pruner.kept_share(fraction) for fraction in ordered]
    temperatures = [pruner.inverse_temperature(fraction) for fraction in ordered]
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(shares))
    assert all(a <= b for a, b in itertools.pairwise(temperatures))
    assert {pruner.kept_share(f) for f in (0.0, begin / 2, begin)} == {1.0}
    assert {pruner.kept_share(f) for f in (end, (1 + end) / 2, 1.0)} == {0.0}
    assert (pruner.inverse_temperature(0.0), pruner.inverse_temperature(1.0)) == (1.0, pytest.approx(1 / 0.03))


def test_schedules_have_no_state():
    """What a hook sets depends only on the step, so that a resumed run follows the same schedule."""
    pruner = ProbMask(sparsity=0.9)
    (stepped,), (fresh,) = layers_of(pruner, (10, 10)), layers_of(pruner, (10, 10))
    for step in range(151):
        pruner.before_step([stepped], at_step(step))
    pruner.before_step([fresh], at_step(150))
    assert stepped.gate.inverse_temperature == fresh.gate.inverse_temperature != 1.0


def test_probabilities_sum_to_the_budget_from_end_on():
    """From `end` on the probabilities sum to the board's k, up to float32 rounding and never above it."""
    for sparsity in (0.123, 0.9, 0.987):
        pruner = ProbMask(sparsity=sparsity)
        layers = layers_of(pruner, (20, 30), (50,))
        k = sum(layer.keep for layer in layers)
        pruner.after_step(layers, at_step(180))
        total = sum(float(layer.gate.probability.detach().sum(dtype=torch.float64)) for layer in layers)
        assert k * (1 - 1e-5) <= total <= k


def test_constraint_holds_after_every_projection():
    """After each step's projection the sum of all probabilities is within that step's budget."""
    pruner = ProbMask(sparsity=0.9)
    layers = layers_of(pruner, (20, 30), (50,))
    for step in range(40, 300, 13):
        for layer in layers:
            noise = torch.randn(layer.dense.shape, generator=generator(step)) * 0.05
            layer.gate.probability.data.add_(noise)
        pruner.after_step(layers, at_step(step))
        total = sum(float(layer.gate.probability.detach().sum(dtype=torch.float64)) for layer in layers)
        assert step <= 48 or total <= 65 + 585 * pruner.kept_share(step / 300)


def at_epoch(epoch, steps_per_epoch):
    """The state that hooks receive at the first step of an epoch of 300, in a run that hardens after them."""
    step, harden = epoch * steps_per_epoch, EPOCHS * steps_per_epoch
    return Progress(step, harden + 20 * steps_per_epoch, harden, "search", generator, Writer())


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_every_epoch_starts_with_the_official_budget_and_temperature(steps_per_epoch):
    """T and the sum of the probabilities, as the hooks set them, equal the official ones at each of the 300 epochs."""
    pruner = ProbMask(sparsity=0.9)
    weight = nn.Parameter(torch.randn(1000, dtype=torch.float64, generator=generator()))
    for epoch in range(EPOCHS):
        layer = Layer(0, "layer", weight, pruner.gate(weight.detach()), 100)
        at = at_epoch(epoch, steps_per_epoch)
        pruner.before_step([layer], at)
        pruner.after_step([layer], at)
        assert layer.gate.inverse_temperature == pytest.approx(official_inverse_temperature(epoch), rel=1e-12)
        assert float(layer.gate.probability.detach().sum()) == pytest.approx(1000 * official_rate(epoch, 0.1), rel=1e-9)


def test_budget_and_temperature_change_within_an_epoch():
    """Deviation: within an epoch the budget falls and T rises per step, between the official values of its ends."""
    pruner = ProbMask(sparsity=0.9)
    for epoch in (60, 100, 170):
        inside = (epoch + 0.5) / EPOCHS
        rate = 0.1 + 0.9 * pruner.kept_share(inside)
        assert official_rate(epoch + 1, 0.1) < rate < official_rate(epoch, 0.1)
        temperatures = [official_inverse_temperature(e) for e in (epoch, epoch + 1)]
        assert temperatures[0] < pruner.inverse_temperature(inside) < temperatures[1]


# Hardening


@FEW
@given(st.integers(0, 60), st.integers(0, 1000))
def test_sampled_masks_keep_exactly_k(k, seed):
    """A repaired mask keeps exactly k positions over all layers, whatever was drawn."""
    probabilities = [torch.rand(20, generator=generator(seed)), torch.rand(5, 8, generator=generator(seed + 1))]
    masks = sample(probabilities, k, [generator(seed), generator(seed + 1)])
    assert sum(int(mask.sum()) for mask in masks) == k
    assert [mask.shape for mask in masks] == [p.shape for p in probabilities]


def test_repair_drops_the_least_probable_and_adds_the_most_probable():
    """Repair drops the least probable drawn positions, or keeps all drawn ones and adds the most probable others."""
    p = torch.rand(1000, generator=generator(1))
    drawn = torch.rand(1000, generator=generator(2)) < p
    count = int(drawn.sum())
    (fewer,) = sample([p], count - 50, [generator(2)])
    (more,) = sample([p], count + 50, [generator(2)])
    assert not (fewer & ~drawn).any()
    assert p[drawn & ~fewer].max() <= p[fewer].min()
    assert (more & drawn).sum() == count
    assert p[more & ~drawn].min() >= p[~more].max()


def test_samples_are_bernoulli_before_repair():
    """With the budget at the expected count, position i is kept with probability s_i."""
    p = torch.tensor([0.1, 0.5, 0.9]).repeat(4000)
    (mask,) = sample([p], 6000, [generator(3)])
    kept = mask.reshape(-1, 3).double().mean(0)
    np.testing.assert_allclose(kept.numpy(), [0.1, 0.5, 0.9], atol=0.03)


def test_hardening_keeps_the_sample_with_the_best_validation():
    """Hardening validates once per sample, and fixes the mask with the best result."""
    pruner = ProbMask(sparsity=0.5, samples=5)
    layers = layers_of(pruner, (40,), (10, 10))
    for layer in layers:
        layer.gate.probability.data.uniform_(generator=generator(9))
    seen, answers = [], iter([0.1, 0.7, 0.3, 0.7, 0.2])

    def validate():
        seen.append([layer.gate.probability.detach().clone() for layer in layers])
        return next(answers)

    pruner.harden(layers, at_step(300), validate)
    assert len(seen) == 5
    assert all(torch.equal(layer.gate.probability, best) for layer, best in zip(layers, seen[1], strict=True))
    assert sum(int(layer.gate.kept(layer.dense).sum()) for layer in layers) == 70


def test_hardened_gate_is_a_mask():
    """After hardening, training and evaluation mode give the same weight, with exact zeros at pruned positions."""
    pruner = ProbMask(sparsity=0.8)
    (layer,) = layers_of(pruner, (10, 10))
    layer.gate.probability.data.uniform_(generator=generator(4))
    pruner.harden([layer], at_step(300), lambda: 0.5)
    effective = layer.gate.train()(layer.dense)
    assert torch.equal(effective, layer.gate.eval()(layer.dense))
    assert int((effective != 0).sum()) == 20


def test_undecided_probabilities_are_counted_per_weight_and_per_kept_weight():
    """Of 200 probabilities, 15 are strictly between 0 and 1: .075 of all, but 1.5 times the 10 that are kept."""
    pruner = ProbMask(sparsity=0.95)
    layers = layers_of(pruner, (10, 10), (10, 10))
    for layer, undecided in zip(layers, (5, 10), strict=True):
        values = torch.zeros(100)
        values[:undecided], values[-1] = 0.25, 1.0
        layer.gate.probability.data.copy_(values.view(10, 10))
    found = pruner.diagnostics(layers, at_step(300))
    assert (found["undecided"], found["undecided_per_kept"]) == (0.075, 1.5)
    assert found["mean_probability"] == pytest.approx((15 * 0.25 + 2) / 200)


def test_the_undecided_count_is_finite_if_nothing_is_kept():
    """A sparsity at which the budget rounds to no weight gives a finite number."""
    layers = layers_of(ProbMask(sparsity=0.999), (10, 10))
    assert ProbMask(sparsity=0.999).diagnostics(layers, at_step(0)) == {
        "temperature": 1.0,
        "mean_probability": 1.0,
        "undecided": 0.0,
        "undecided_per_kept": 0.0,
    }


def test_zero_sparsity_learns_nothing():
    """At sparsity 0 there is one pass, no probability is trainable, and the gate is the identity bit for bit."""
    pruner = ProbMask(sparsity=0.0)
    (layer,) = layers_of(pruner, (10, 10))
    assert pruner.traits("prune").forward_passes == 1
    assert not ProbMask(sparsity=0.0, split_batch=True).traits("prune").split_batch
    assert not layer.gate.probability.requires_grad
    assert torch.equal(layer.gate(layer.dense), layer.dense)


@pytest.mark.parametrize(
    "options",
    [
        {"begin": 0.7},
        {"end": 1.1},
        {"final_temperature": 0.0},
        {"passes": 0},
        {"passes": 1, "split_batch": True},
        {"samples": 0},
        {"harden_at": 0},
        {"lr": 0},
    ],
)
def test_invalid_options_are_rejected(options):
    """An option out of range raises a ValueError that names the value found."""
    with pytest.raises(ValueError, match="found"):
        ProbMask(sparsity=0.9, **options)


def test_a_split_batch_costs_one_pass(tmp_path):
    """With `split_batch` a run records two passes but, apart from validations, the multiply-adds of dense training."""
    record = run(tmp_path, "probmask", options={"split_batch": True})
    cost = record["cost"]
    validated = cost["validations"] * (16 * 32 + record["data"]["validation"]) * cost["macs_dense"]
    assert (cost["forward_passes"], cost["train_macs"] - validated) == (2, cost["dense_train_macs"])
    assert record["method"]["traits"]["split_batch"] is True
    assert found(run_folder(tmp_path)).verdict == "certified"


def test_a_batch_that_cannot_be_split_evenly_is_rejected(tmp_path):
    """Three passes cannot split 32 images; the message names both numbers and the option to change."""
    with pytest.raises(UsageError, match=r"32 images .* among 3 forward passes: choose --norm-batch"):
        run(tmp_path, "probmask", options={"split_batch": True, "passes": 3})
