"""STR's hardening, traits and options, and real runs."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from str_cases import FEW, at, gated, harden, kept_count, map_weights, network, normal, published, s_of

from pruneboard.scores import budget, kept_of
from pruneboard_str import STR
from runs import folder, run

SPARSITIES = [0.01, 0.5, 0.8, 0.9, 0.98, 0.995, 0.999]

AWKWARD = {
    "normal": lambda weight: weight,
    "ties": lambda weight: (weight * 4).round() / 4,
    "all equal": lambda weight: torch.full_like(weight, -0.25),
    "above one": lambda weight: weight * 20,
    "all above one": lambda weight: weight.sign() * 2,
    "mostly zeros": lambda weight: torch.where(weight.abs() > 0.3, weight, 0.0),
    "all zeros": torch.zeros_like,
    "tiny": lambda weight: weight * 1e-38,
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_exactly_the_budget_is_kept(kind, sparsity):
    """For any weights, n - round(s n) positions are kept, each kept weight is non-zero, and all others are 0."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner)
    map_weights(layers, AWKWARD[kind])
    signs = [layer.dense.detach().sign() for layer in layers]
    harden(pruner, layers)
    folded = [layer.gate.folded(layer.dense.detach()) for layer in layers]
    n = sum(weight.numel() for weight in folded)
    assert kept_count(layers) == sum(int((weight != 0).sum()) for weight in folded) == kept_of(n, sparsity)
    for sign, weight, layer in zip(signs, folded, layers, strict=True):
        assert torch.equal(layer.gate.kept(layer.dense.detach()), weight != 0)
        assert bool((sign * weight >= 0).all())
        assert math.isfinite(layer.gate.threshold.item())


@given(sparsity=st.floats(0.001, 0.99), shift=st.floats(-3200, 2))
@FEW
def test_the_budget_is_exact_for_any_thresholds(sparsity, shift):
    """From deep underflow to far too high, one common shift of the thresholds keeps exactly the budget."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner, thresholds=(shift - 3.0, shift - 1.0, shift))
    harden(pruner, layers)
    assert kept_count(layers) == budget(layers)


def by_bisection(layers, k):
    """The masks |w| > sigmoid(s + delta), where delta is bisected until exactly k entries are true."""
    weights = [layer.dense.detach().double().abs() for layer in layers]
    s = [layer.gate.threshold.detach().double() for layer in layers]
    low, high = -100.0, 100.0
    for _ in range(200):
        delta = (low + high) / 2
        masks = [w > torch.sigmoid(t + delta) for w, t in zip(weights, s, strict=True)]
        count = sum(int(mask.sum()) for mask in masks)
        if count == k:
            return masks
        low, high = (delta, high) if count > k else (low, delta)
    raise AssertionError("no shift keeps exactly k")


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_masks_equal_those_of_a_bisected_shift(sparsity):
    """The masks are those of the one delta at which |w| > sigmoid(s + delta) holds k times over all layers."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner)
    expected = by_bisection(layers, budget(layers))
    harden(pruner, layers)
    for layer, mask in zip(layers, expected, strict=True):
        assert torch.equal(layer.gate.kept(layer.dense.detach()), mask)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_kept_weights_become_soft_thresholded(sparsity):
    """The dense weights become S_g(w, s + delta) and the thresholds s + delta, with one delta for all layers."""
    pruner = STR(sparsity=sparsity)
    layers, before = gated(pruner), gated(pruner)
    harden(pruner, layers)
    deltas = [a - b for a, b in zip(s_of(layers), s_of(before), strict=True)]
    assert deltas == pytest.approx([deltas[0]] * 3, abs=1e-5)
    for old, new in zip(before, layers, strict=True):
        expected = published(old.dense.detach().double(), new.gate.threshold.detach().double())
        torch.testing.assert_close(new.dense.detach().double(), expected, rtol=0, atol=1e-6)


def test_ties_keep_the_earlier_layer_and_position():
    """Of equal weights under equal thresholds, the first in the order of layers and positions are kept."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner, thresholds=(-2.0, -2.0, -2.0))
    map_weights(layers, AWKWARD["all equal"])
    harden(pruner, layers)
    flat = torch.cat([layer.gate.kept(layer.dense.detach()).flatten() for layer in layers])
    assert torch.equal(flat, torch.arange(len(flat)) < budget(layers))


def test_exact_zeros_are_pruned_first():
    """No exact zero is kept while any weight is not zero, even if the thresholds differ by thousands."""
    pruner = STR(sparsity=0.5)
    layers = gated(pruner, thresholds=(-3200.0, -1.0, -2.0))
    map_weights(layers[:1], torch.zeros_like)
    harden(pruner, layers)
    assert int(layers[0].gate.keep.sum()) == 0
    assert kept_count(layers) == budget(layers)


def test_a_plain_network_gives_the_same_logits():
    """A plain network with weights S_g(w, s) gives the gated network's logits bit for bit, hardened or not."""
    pruner = STR(sparsity=0.8)
    plain = network()
    net = copy.deepcopy(plain)
    layers = gated(pruner, net=net)
    images = normal(5, 3, 4, 4, dtype=torch.float32)
    for export in ("search", "hardened"):
        for layer, name in zip(layers, ("0", "2", "4"), strict=True):
            weight, gate = layer.dense.detach(), layer.gate
            folded = published(weight, gate.threshold.detach()) if export == "search" else weight * gate.keep
            plain.get_submodule(name).weight.data.copy_(folded)
            assert torch.equal(gate.folded(weight), folded)
        assert torch.equal(net(images), plain(images))
        harden(pruner, layers)


def test_a_hardened_gate_is_a_mask():
    """After hardening every kept weight gets its whole gradient, no other weight gets one, and s gets none."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner)
    harden(pruner, layers)
    for layer in layers:
        gradient, to_s = torch.autograd.grad(
            layer.gate(layer.dense).sum(), (layer.dense, layer.gate.threshold), allow_unused=True
        )
        assert torch.equal(gradient, layer.gate.keep)
        assert to_s is None


def test_zero_sparsity_learns_nothing():
    """At sparsity 0 the gate is the identity, gradient at 0 included, and no threshold is trainable."""
    for mode in ("target", "faithful"):
        gate = STR(sparsity=0.0, mode=mode).gate(torch.zeros(3))
        weight = torch.tensor([0.0, 1e-40, -2.0], requires_grad=True)
        assert not gate.threshold.requires_grad
        assert torch.equal(gate(weight), weight)
        (gradient,) = torch.autograd.grad(gate(weight).sum(), weight)
        assert torch.equal(gradient, torch.ones(3))


def test_traits_depend_on_the_mode():
    """`target` hits the budget and hardens at `harden_at`; in `faithful` sparsity emerges until the end."""
    target, faithful = (
        STR(sparsity=0.9, harden_at=0.6).traits("prune"),
        STR(sparsity=0.9, mode="faithful").traits("prune"),
    )
    assert (target.hits_target, target.harden_at, target.forward_passes) == (True, 0.6, 1)
    assert (faithful.hits_target, faithful.harden_at, faithful.forward_passes) == (False, 1.0, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both"},
        {"init": 0.0},
        {"init": -0.05},
        {"init": -2.0, "mode": "faithful"},
        {"init": -math.inf},
        {"init": math.nan},
        {"decay": -1e-4},
        {"decay": math.nan},
        {"lr": 0.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"harden_at": 0.0},
        {"harden_at": 1.5},
    ],
)
def test_invalid_options_are_rejected(options):
    """An option out of range raises a ValueError that names the value found."""
    with pytest.raises(ValueError, match="found"):
        STR(sparsity=0.9, **options)


def test_diagnostics_are_the_thresholds():
    """The diagnostics are the mean, the lowest and the highest sigmoid(s) of the layers."""
    pruner = STR(sparsity=0.9)
    found = pruner.diagnostics(gated(pruner, thresholds=(-2.0, 0.0, 2.0)), at())
    levels = [1 / (1 + math.exp(-s)) for s in (-2.0, 0.0, 2.0)]
    assert found == pytest.approx({"threshold": 0.5, "threshold_min": levels[0], "threshold_max": levels[2]})


def test_a_target_run_keeps_exactly_the_budget(tmp_path):
    """The record of a real run has exactly n - round(s n) kept positions, all of them non-zero."""
    found = run(tmp_path, "str", 0.98)["sparsity"]
    assert found["kept"] == found["nonzero"] == kept_of(found["prunable"], 0.98)


def test_a_faithful_run_reports_its_measured_sparsity(tmp_path):
    """In mode `faithful` the record declares emerging sparsity, and states the measured share of zeros."""
    made = run(tmp_path, "str", 0.9, options={"mode": "faithful"})
    found = made["sparsity"]
    assert made["method"]["traits"]["hits_target"] is False
    assert found["kept"] == found["nonzero"]
    assert found["measured"] == pytest.approx(1 - found["nonzero"] / found["prunable"], abs=1e-12)
    assert 0.5 < found["measured"] < 1
    last = json.loads((folder(tmp_path) / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sparsity"] == pytest.approx(found["measured"], abs=1e-12)
    assert 0 < last["diagnostics"]["threshold_min"] <= last["diagnostics"]["threshold_max"] < 1
