"""STR against its paper: soft thresholding, its gradients, the thresholds' journey, the exact end."""

from __future__ import annotations

import copy
import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import folder, run
from torch import nn
from writer import Writer

from pruneboard.api import Progress
from pruneboard.gates import DrawClock, attach
from pruneboard.optim import GroupedOptimizer, schedule
from pruneboard.scores import budget, kept_of
from pruneboard_str import STR, ThresholdGate
from pruneboard_str.gate import soft_threshold

FEW = settings(max_examples=30, deadline=None)
WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40)
THRESHOLDS = st.floats(-120, 5, width=32)
SPARSITIES = [0.01, 0.5, 0.8, 0.9, 0.98, 0.995, 0.999]


def draw(*shape, seed=0, dtype=torch.float64):
    """Normal numbers of this seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published(weight, s):
    """The paper's formula in plain PyTorch, differentiated by autograd."""
    return torch.sign(weight) * torch.relu(torch.abs(weight) - torch.sigmoid(s))


def at(step=75, total=100, harden_step=75):
    """What hooks are told at `step` of a run of 100 steps that hardens at 75."""
    phase = "search" if step < harden_step else "finetune"
    return Progress(step, total, harden_step, phase, DrawClock(0).for_hook, Writer())


def network(scales=(0.2, 0.05, 0.1), seed=0):
    """Three layers, 1,832 weights, normal with very different scales."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 38), nn.ReLU(), nn.Linear(38, 10))
    with torch.no_grad():
        for index, (module, scale) in enumerate(zip((net[0], net[2], net[4]), scales, strict=True)):
            module.weight.copy_(draw(*module.weight.shape, seed=seed + index, dtype=torch.float32) * scale)
    return net


def gated(pruner, thresholds=(-3.0, -1.0, -2.0), net=None):
    """Attach a pruner to a network, in the middle of a search: the layers' thresholds have come to differ."""
    net = network() if net is None else net
    targets = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    layers = attach(pruner, targets, DrawClock(0), hits_target=pruner.traits("prune").hits_target)
    with torch.no_grad():
        for layer, s in zip(layers, thresholds, strict=True):
            layer.gate.threshold.fill_(s)
    return layers


def harden(pruner, layers):
    """Harden as the harness does."""
    pruner.harden(layers, at(), lambda: pytest.fail("thresholds are no matter of choice"))


def kept(layers):
    """Positions kept over all layers."""
    return sum(int(layer.gate.kept(layer.dense.detach()).sum()) for layer in layers)


def s_of(layers):
    """The s of every layer."""
    return [layer.gate.threshold.item() for layer in layers]


def fill(layers, function):
    """Rewrite every dense weight by a function of it."""
    with torch.no_grad():
        for layer in layers:
            layer.dense.copy_(function(layer.dense))


# --- the function and its gradients -----------------------------------------------------------------


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_weights_shrink_and_keep_their_sign(weights, s):
    """|w~| is at most |w|, no sign turns, and w~ is exactly 0 where and only where |w| is at most the threshold."""
    weight, threshold = torch.tensor(weights), torch.tensor([s])
    effective = soft_threshold(weight, threshold)
    assert bool((effective.abs() <= weight.abs()).all())
    assert bool((effective * weight >= 0).all())
    assert torch.equal(effective == 0, weight.abs() <= torch.sigmoid(threshold))


@FEW
@given(WEIGHTS, THRESHOLDS)
def test_it_is_the_published_formula_bit_for_bit(weights, s):
    """The gate's weight equals sign(w) relu(|w| - sigmoid(s)) to the last bit, in float32."""
    weight = torch.tensor(weights)
    gate = ThresholdGate(weight, s, learn=True)
    assert torch.equal(gate(weight), published(weight, torch.tensor([s])))


def test_gradients_are_the_published_ones():
    """Forward and both gradients agree with autograd through the paper's formula to 1e-6 in float64."""
    for s in (-6.0, -2.0, 0.0, 1.0):
        weight, upstream = draw(40, 30).requires_grad_(), draw(40, 30, seed=1)
        threshold = torch.tensor([s], dtype=torch.float64, requires_grad=True)
        ours, theirs = soft_threshold(weight, threshold), published(weight, threshold)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        found = torch.autograd.grad(ours, (weight, threshold), upstream)
        expected = torch.autograd.grad(theirs, (weight, threshold), upstream)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_the_written_formula():
    """dL/dw is the gradient where |w| > g, and dL/ds is -g'(s) sum of sign(w) dL/dw~ there."""
    weight, upstream = draw(500).requires_grad_(), draw(500, seed=1)
    threshold = torch.tensor([-0.3], dtype=torch.float64, requires_grad=True)
    to_weight, to_s = torch.autograd.grad(soft_threshold(weight, threshold), (weight, threshold), upstream)
    g = 1 / (1 + math.exp(0.3))
    above = [(w, u) for w, u in zip(weight.tolist(), upstream.tolist(), strict=True) if abs(w) > g]
    assert to_s.item() == pytest.approx(-g * (1 - g) * sum(math.copysign(u, u * w) for w, u in above), rel=1e-12)
    assert torch.equal(to_weight, torch.where(weight.abs() > g, upstream, 0.0))


def test_gradients_are_finite_differences():
    """In float64, away from the kink, both gradients are those that finite differences measure."""
    weight = draw(6, 5)
    weight[(weight.abs() - 0.5).abs() < 1e-3] = 1.0
    inputs = (weight.requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(soft_threshold, inputs)


def test_no_more_memory_than_the_result():
    """For its backward pass the gate keeps its own result and the threshold, and no other tensor."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        soft_threshold(draw(50, 20).requires_grad_(), torch.tensor([-1.0], dtype=torch.float64))
    assert sorted(saved) == [1, 1000]


def test_sparsity_rises_with_the_threshold():
    """Along rising s no weight that was pruned returns, from none pruned to all."""
    weight = draw(1000, dtype=torch.float32) * 0.2
    levels = [soft_threshold(weight, torch.tensor([s])) != 0 for s in torch.linspace(-110, 5, 60).tolist()]
    assert bool(levels[0].all())
    assert not bool(levels[-1].any())
    assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(levels))


@pytest.mark.parametrize("s", [-110.0, -3200.0, -12800.0])
def test_far_below_zero_it_is_the_identity(s):
    """Where sigmoid(s) underflows the weight passes bit for bit, its gradient too, and s gets exactly none."""
    weight = draw(200, dtype=torch.float32)
    weight[:3] = 0.0
    weight[3] = 1e-44
    threshold, upstream = torch.tensor([s], requires_grad=True), draw(200, seed=1, dtype=torch.float32)
    effective = soft_threshold(weight.requires_grad_(), threshold)
    to_weight, to_s = torch.autograd.grad(effective, (weight, threshold), upstream)
    assert torch.equal(effective, weight)
    assert torch.equal(to_weight, upstream)
    assert to_s.item() == 0


# --- the thresholds' journey ------------------------------------------------------------------------


def journey(rule, init, shares):
    """Return s after a real optimizer followed `shares` of the peak rate, without any loss gradient."""
    s = nn.Parameter(torch.tensor([init], dtype=torch.float32))
    group = {"rule": rule.rule, "lr": rule.lr, "weight_decay": rule.weight_decay, "momentum": rule.momentum}
    optimizer = GroupedOptimizer([{"name": "gates", "params": [s], **group}])
    values = []
    for share in shares:
        s.grad = torch.zeros_like(s)
        optimizer.param_groups[0]["lr"] = rule.lr * share
        optimizer.step()
        values.append(s.item())
    return values


def official_shares(epochs=100, warmup=5, steps=196):
    """The official schedule: five epochs of warm-up, then a cosine, constant within an epoch."""
    for epoch in range(epochs):
        share = (epoch + 1) / warmup
        if epoch >= warmup:
            share = 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
        yield from [share] * steps


def test_imagenet_constants_prune_nothing_on_cifar():
    """The official ResNet-50 constants on CIFAR-10's 196 steps an epoch end at s = -2018: no weight is pruned."""
    pruner = STR(sparsity=0.9, mode="faithful", init=-3200.0, decay=2.251757813e-5, lr=0.256, momentum=0.875)
    *_, end = journey(pruner.gate_optimizer(19_600), pruner.init, official_shares())
    assert end == pytest.approx(-2018, abs=2)
    assert bool((soft_threshold(draw(10_000, dtype=torch.float32) * 0.05, torch.tensor([end])) != 0).all())


def test_the_defaults_prune_on_the_same_budget():
    """On those 19,600 steps our defaults leave the underflow by the middle of the search and end near -0.1."""
    pruner = STR(sparsity=0.9)
    shares = list(official_shares())[: round(19_600 * pruner.harden_at)]
    values = journey(pruner.gate_optimizer(len(shares)), pruner.init, shares)
    assert values[len(values) // 2] > -10
    assert values[-1] == pytest.approx(-0.1, abs=0.02)


@pytest.mark.parametrize("total", [8, 160, 1000])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("mode", ["target", "faithful"])
def test_the_automatic_decay_reaches_its_aim(mode, sparsity, total):
    """By default s rises steadily and ends, on any budget and below 0, within a factor of 2 of where it should."""
    pruner = STR(sparsity=sparsity, mode=mode)
    steps = round(total * pruner.traits("prune").harden_at)
    values = journey(pruner.gate_optimizer(steps), pruner.init, [schedule(t, total, total // 20) for t in range(steps)])
    assert all(later >= earlier for earlier, later in itertools.pairwise([pruner.init, *values]))
    assert 0.5 < values[-1] / pruner.aim < 2
    pruned = soft_threshold(draw(10_000, dtype=torch.float32) * 0.05, torch.tensor([values[-1]])) == 0
    assert float(pruned.float().mean()) >= sparsity - 0.12


@pytest.mark.parametrize("sparsity", [1e-300, 1 - 2.0**-53])
def test_any_sparsity_has_an_aim(sparsity):
    """At the ends of [0, 1) the automatic decay of mode `faithful` still is a positive number."""
    assert 0 < STR(sparsity=sparsity, mode="faithful").gate_optimizer(100).weight_decay < 1


def test_a_given_decay_is_used_as_it_is():
    """Only a decay of 0 is replaced."""
    rule = STR(sparsity=0.9, decay=0.003, lr=0.2, momentum=0.5).gate_optimizer(10)
    assert (rule.rule, rule.lr, rule.weight_decay, rule.momentum) == ("sgd", 0.2, 0.003, 0.5)


@pytest.mark.parametrize("sparsity", [0.1, 0.9, 0.99])
def test_the_search_never_prunes_far_beyond_the_budget(sparsity):
    """Thresholds that rose too far come back together: their distances stay, and about the budget is kept."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner, thresholds=(1.5, 0.5, 1.0))
    pruner.after_step(layers, at(step=10))
    s = s_of(layers)
    assert [s[0] - s[1], s[2] - s[1]] == pytest.approx([1.0, 0.5], abs=1e-5)
    assert abs(kept(layers) - budget(layers)) <= 1


def test_thresholds_below_the_budget_are_left_alone():
    """While more is kept than the budget, no threshold is written."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner, thresholds=(-6.0, -7.0, -8.0))
    pruner.after_step(layers, at(step=10))
    assert s_of(layers) == [-6.0, -7.0, -8.0]


def test_the_faithful_mode_writes_nothing():
    """In mode `faithful` thresholds go where the optimizer takes them, and the end changes nothing."""
    pruner = STR(sparsity=0.5, mode="faithful")
    layers = gated(pruner, thresholds=(1.5, 0.5, 1.0))
    before = [layer.gate.folded(layer.dense.detach()) for layer in layers]
    pruner.after_step(layers, at(step=10))
    harden(pruner, layers)
    for layer, weight in zip(layers, before, strict=True):
        assert torch.equal(layer.gate.folded(layer.dense.detach()), weight)
        assert torch.equal(layer.gate.kept(layer.dense.detach()), weight != 0)


def test_weights_that_are_no_numbers_are_left_to_the_harness():
    """A diverged step raises nothing here: the harness names it for what it is."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner)
    fill(layers, lambda weight: torch.full_like(weight, math.nan))
    pruner.after_step(layers, at(step=10))
    assert s_of(layers) == [-3.0, -1.0, -2.0]


# --- hardening --------------------------------------------------------------------------------------

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
def test_exactly_the_budget_survives(kind, sparsity):
    """Whatever the weights, n - round(s n) positions are kept, each holds a number, and nothing else does."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner)
    fill(layers, AWKWARD[kind])
    signs = [layer.dense.detach().sign() for layer in layers]
    harden(pruner, layers)
    folded = [layer.gate.folded(layer.dense.detach()) for layer in layers]
    n = sum(weight.numel() for weight in folded)
    assert kept(layers) == sum(int((weight != 0).sum()) for weight in folded) == kept_of(n, sparsity)
    for sign, weight, layer in zip(signs, folded, layers, strict=True):
        assert torch.equal(layer.gate.kept(layer.dense.detach()), weight != 0)
        assert bool((sign * weight >= 0).all())
        assert math.isfinite(layer.gate.threshold.item())


@given(sparsity=st.floats(0.001, 0.99), shift=st.floats(-3200, 2))
@FEW
def test_the_budget_is_exact_wherever_the_thresholds_are(sparsity, shift):
    """From deep underflow to far too high, one common shift ends at exactly the budget."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner, thresholds=(shift - 3.0, shift - 1.0, shift))
    harden(pruner, layers)
    assert kept(layers) == budget(layers)


def by_bisection(layers, k):
    """Return the masks |w| > sigmoid(s + delta), with delta bisected until exactly k are true: the reference."""
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
def test_the_survivors_are_those_of_a_bisected_shift(sparsity):
    """The masks are those of the one delta at which |w| > sigmoid(s + delta) holds k times over all layers."""
    pruner = STR(sparsity=sparsity)
    layers = gated(pruner)
    expected = by_bisection(layers, budget(layers))
    harden(pruner, layers)
    for layer, mask in zip(layers, expected, strict=True):
        assert torch.equal(layer.gate.kept(layer.dense.detach()), mask)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_survivors_end_soft_thresholded(sparsity):
    """The dense weights become S_g(w, s + delta), one delta for all layers, and the thresholds s + delta."""
    pruner = STR(sparsity=sparsity)
    layers, before = gated(pruner), gated(pruner)
    harden(pruner, layers)
    deltas = [a - b for a, b in zip(s_of(layers), s_of(before), strict=True)]
    assert deltas == pytest.approx([deltas[0]] * 3, abs=1e-5)
    for old, new in zip(before, layers, strict=True):
        expected = published(old.dense.detach().double(), new.gate.threshold.detach().double())
        torch.testing.assert_close(new.dense.detach().double(), expected, rtol=0, atol=1e-6)


def test_ties_keep_the_earlier_layer_and_position():
    """Among equal weights under equal thresholds the first in the order of layers and positions survive."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner, thresholds=(-2.0, -2.0, -2.0))
    fill(layers, AWKWARD["all equal"])
    harden(pruner, layers)
    flat = torch.cat([layer.gate.kept(layer.dense.detach()).flatten() for layer in layers])
    assert torch.equal(flat, torch.arange(len(flat)) < budget(layers))


def test_zeros_go_first_whatever_the_thresholds():
    """No exact zero is kept while a weight anywhere is not zero, even where thresholds lie thousands apart."""
    pruner = STR(sparsity=0.5)
    layers = gated(pruner, thresholds=(-3200.0, -1.0, -2.0))
    fill(layers[:1], torch.zeros_like)
    harden(pruner, layers)
    assert int(layers[0].gate.keep.sum()) == 0
    assert kept(layers) == budget(layers)


def test_export_gives_the_same_logits():
    """A plain network holding S_g(w, s) gives the gated network's logits bit for bit, before and after hardening."""
    pruner = STR(sparsity=0.8)
    plain = network()
    net = copy.deepcopy(plain)
    layers = gated(pruner, net=net)
    images = draw(5, 3, 4, 4, dtype=torch.float32)
    for export in ("search", "hardened"):
        for layer, name in zip(layers, ("0", "2", "4"), strict=True):
            weight, gate = layer.dense.detach(), layer.gate
            folded = published(weight, gate.threshold.detach()) if export == "search" else weight * gate.keep
            plain.get_submodule(name).weight.data.copy_(folded)
            assert torch.equal(gate.folded(weight), folded)
        assert torch.equal(net(images), plain(images))
        harden(pruner, layers)


def test_a_hardened_gate_is_a_mask():
    """After hardening the gradient of every survivor passes whole, no other does, and s gets none."""
    pruner = STR(sparsity=0.9)
    layers = gated(pruner)
    harden(pruner, layers)
    for layer in layers:
        gradient, to_s = torch.autograd.grad(
            layer.gate(layer.dense).sum(), (layer.dense, layer.gate.threshold), allow_unused=True
        )
        assert torch.equal(gradient, layer.gate.keep)
        assert to_s is None


@pytest.mark.parametrize("hardened", [False, True])
def test_a_loaded_gate_is_the_saved_one(hardened):
    """All of a gate's state is in its tensors: loaded into a fresh one they give the same weight."""
    weight = draw(20, 10, dtype=torch.float32)
    saved, fresh = ThresholdGate(weight, -1.0, learn=True), ThresholdGate(weight, -5.0, learn=True)
    if hardened:
        saved.harden(weight > 0.5)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(weight), saved(weight))
    assert torch.equal(fresh.kept(weight), saved.kept(weight))


def test_zero_sparsity_learns_nothing():
    """At sparsity 0 the gate is the identity from the start, gradient at 0 included, and trains no threshold."""
    for mode in ("target", "faithful"):
        gate = STR(sparsity=0.0, mode=mode).gate(torch.zeros(3))
        weight = torch.tensor([0.0, 1e-40, -2.0], requires_grad=True)
        assert not gate.threshold.requires_grad
        assert torch.equal(gate(weight), weight)
        (gradient,) = torch.autograd.grad(gate(weight).sum(), weight)
        assert torch.equal(gradient, torch.ones(3))


# --- what it declares, and real runs ----------------------------------------------------------------


def test_traits_follow_the_mode():
    """`target` hits the budget and hardens where it is told; `faithful` lets sparsity emerge to the end."""
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
def test_impossible_options_are_refused(options):
    """Options that no search could mean raise ValueError naming what was found."""
    with pytest.raises(ValueError, match="found"):
        STR(sparsity=0.9, **options)


def test_diagnostics_are_the_thresholds():
    """What is logged is the mean, the lowest and the highest sigmoid(s) of the layers."""
    pruner = STR(sparsity=0.9)
    found = pruner.diagnostics(gated(pruner, thresholds=(-2.0, 0.0, 2.0)), at())
    levels = [1 / (1 + math.exp(-s)) for s in (-2.0, 0.0, 2.0)]
    assert found == pytest.approx({"threshold": 0.5, "threshold_min": levels[0], "threshold_max": levels[2]})


def test_a_target_run_keeps_exactly_the_budget(tmp_path):
    """The record of a real run holds exactly n - round(s n) positions, all of them non-zero."""
    found = run(tmp_path, "str", 0.98)["sparsity"]
    assert found["kept"] == found["nonzero"] == kept_of(found["prunable"], 0.98)


def test_a_faithful_run_stands_at_what_it_measured(tmp_path):
    """Sparsity emerges: the record declares so, and gives the share of zeros that the thresholds made."""
    made = run(tmp_path, "str", 0.9, options={"mode": "faithful"})
    found = made["sparsity"]
    assert made["method"]["traits"]["hits_target"] is False
    assert found["kept"] == found["nonzero"]
    assert found["measured"] == pytest.approx(1 - found["nonzero"] / found["prunable"], abs=1e-12)
    assert 0.5 < found["measured"] < 1
    last = json.loads((folder(tmp_path) / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sparsity"] == pytest.approx(found["measured"], abs=1e-12)
    assert 0 < last["diagnostics"]["threshold_min"] <= last["diagnostics"]["threshold_max"] < 1


def test_zero_sparsity_is_the_dense_run_bit_for_bit(tmp_path):
    """With nothing to prune, weights and metrics end as the dense run's, to the last bit."""
    dense = run(tmp_path / "dense", "dense", None)
    made = run(tmp_path / "str", "str", 0.0)
    assert made["weights_sha256"] == dense["weights_sha256"]
    assert made["metrics"]["validation"] == dense["metrics"]["validation"]
