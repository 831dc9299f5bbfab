"""GMP's masks: updates, returning weights, exact counts, a plain implementation, a real run."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from gmp_cases import ALLOCATIONS, SHAPES, SIZES, TOTAL, UPDATES, WINDOW, at, counts, drive, layers_of
from small_cases import classifier
from torch import nn

from pruneboard.scores import budget, erk, importance, kept_of, top_k, uniform
from pruneboard.training.gates import DrawKey, attach
from pruneboard_gmp import GMP
from runs import folder, run


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_masks_change_only_at_updates(allocation):
    """Although weights change every step, masks change at update steps only, the last of which is the hardening."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    before, changed = [torch.ones(shape) for shape in SHAPES], []
    for step, masks in drive(pruner, layers_of(pruner)):
        if any(not torch.equal(a, b) for a, b in zip(before, masks, strict=True)):
            changed.append(step)
        before = masks
    assert changed == UPDATES[1:]  # the update at `begin` still keeps everything


def test_no_update_follows_hardening():
    """No step after hardening is an update step."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    assert not any(pruner.is_update_step(at(pruner, step)) for step in range(27, TOTAL + 1))


def test_pruned_weights_are_zero_in_the_forward_pass():
    """A layer computes with w * mask at every step, and the stored weights keep every bit."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    net = nn.Linear(30, 40)
    (layer,) = layers = attach(pruner, [("net", net)], DrawKey(0), hits_target=True)
    stored = layer.dense.detach().clone()
    for _, (mask,) in drive(pruner, layers, moving=False):
        assert torch.equal(net.weight, stored * mask)
        assert not net.weight[mask == 0].any()
        assert torch.equal(net(torch.eye(30)), (stored * mask).t() + net.bias)
    assert torch.equal(layer.dense, stored)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_hardening_keeps_the_best_of_the_stored_weights(allocation):
    """The final masks have the allocation's counts and rank the weights as they are at hardening."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    layers, k = layers_of(pruner), kept_of(sum(SIZES), 0.9)
    *_, (_, masks) = drive(pruner, layers)
    scores = importance([layer.dense for layer in layers], allocation)
    if allocation in ("global", "lamp"):
        expected = top_k(scores, k)
    else:
        keep = uniform(SIZES, k) if allocation == "uniform" else erk(SHAPES, k)
        expected = [top_k([score], n)[0] for score, n in zip(scores, keep, strict=True)]
    assert all(torch.equal(mask.bool(), best) for mask, best in zip(masks, expected, strict=True))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("keep_pruned", [False, True])
def test_a_pruned_weight_returns_unless_keep_pruned(allocation, keep_pruned):
    """As weights change, masks from the stored weights let some return; with `keep_pruned` none returns."""
    pruner = GMP(sparsity=0.9, allocation=allocation, keep_pruned=keep_pruned, **WINDOW)
    history = [masks for _, masks in drive(pruner, layers_of(pruner))]
    returned = [
        int(((old == 0) & (new == 1)).sum())
        for early, late in itertools.pairwise(history)
        for old, new in zip(early, late, strict=True)
    ]
    assert (sum(returned) == 0) == keep_pruned
    assert sum(counts(history[-1])) == kept_of(sum(SIZES), 0.9)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_kept_zeros_rank_above_pruned_weights(allocation):
    """With `keep_pruned`, kept weights that are all 0 still rank above huge pruned ones."""
    pruner = GMP(sparsity=0.9, allocation=allocation, keep_pruned=True, **WINDOW)
    layers = layers_of(pruner)
    kept = {step: [mask.bool() for mask in masks] for step, masks in drive(pruner, layers, moving=False)}
    for layer, mask, final in zip(layers, kept[20], kept[26], strict=True):
        assert bool((mask >= final).all())
        layer.gate.set(mask)
        with torch.no_grad():
            layer.dense.copy_(torch.where(mask, 0.0, 1e6))
    pruner.harden(layers, at(pruner, 26), lambda: 0.0)
    assert sum(counts([layer.gate.keep for layer in layers])) == budget(layers)
    assert all(bool((layer.gate.keep <= mask).all()) for layer, mask in zip(layers, kept[20], strict=True))


def test_lamp_ignores_pruned_weights_under_keep_pruned():
    """With `keep_pruned`, the stored values of pruned weights do not change the LAMP scores of the others."""
    pruner = GMP(sparsity=0.9, allocation="lamp", keep_pruned=True)
    layers = layers_of(pruner)
    for layer in layers:
        layer.gate.set(layer.dense > 0)
    before = pruner.scores(layers)
    with torch.no_grad():
        for layer in layers:
            layer.dense[layer.gate.keep == 0] *= 1000
    assert all(torch.equal(a, b) for a, b in zip(before, pruner.scores(layers), strict=True))


@pytest.mark.parametrize("keep_pruned", [False, True])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_at_sparsity_zero_the_mask_is_all_ones_at_every_step(allocation, keep_pruned):
    """At sparsity 0 every mask along the ramp keeps everything."""
    pruner = GMP(sparsity=0.0, allocation=allocation, keep_pruned=keep_pruned, **WINDOW)
    assert all(counts(masks) == SIZES for _, masks in drive(pruner, layers_of(pruner)))


@pytest.mark.parametrize("keep_pruned", [False, True])
@pytest.mark.parametrize("cut", [7, 8, 13, 16, 25])
def test_a_resumed_run_has_the_same_masks(cut, keep_pruned):
    """New objects that load the masks of a step produce the masks of the uninterrupted run."""
    options = {"sparsity": 0.9, "keep_pruned": keep_pruned, **WINDOW}
    whole = dict(drive(GMP(**options), layers_of(GMP(**options))))
    resumed = layers_of(GMP(**options))
    for layer, keep in zip(resumed, whole[cut - 1], strict=True):
        layer.gate.load_state_dict({"keep": keep})
    for step, masks in drive(GMP(**options), resumed, start=cut):
        assert all(torch.equal(a, b) for a, b in zip(masks, whole[step], strict=True))


class Reference:
    """Zhu and Gupta in plain PyTorch: one threshold per layer at s_t, w * (|w| > threshold), SGD written out."""

    def __init__(self, weights, sparsity, begin, end):
        self.weights = [weight.clone().requires_grad_() for weight in weights]
        self.masks = [torch.ones_like(weight) for weight in weights]
        self.velocity = [torch.zeros_like(weight) for weight in weights]
        self.sparsity, self.begin, self.end = sparsity, begin, end

    def update(self, t):
        """Recompute the masks at step t."""
        s_t = self.sparsity + (0 - self.sparsity) * (1 - (t - self.begin) / (self.end - self.begin)) ** 3
        for i, weight in enumerate(self.weights):
            magnitudes = weight.detach().abs()
            zeros = math.ceil(round(s_t * weight.numel(), 6))
            threshold = magnitudes.flatten().sort().values[zeros - 1] if zeros else -1.0
            self.masks[i] = (magnitudes > threshold).double()

    def effective(self):
        """W * mask, in the autograd graph."""
        return [weight * mask for weight, mask in zip(self.weights, self.masks, strict=True)]

    def step(self, gradients, lr, momentum, decay):
        """Take one step of SGD with momentum, and decay on the stored weights."""
        with torch.no_grad():
            for weight, velocity, gradient in zip(self.weights, self.velocity, gradients, strict=True):
                velocity.mul_(momentum).add_(gradient + decay * weight)
                weight.sub_(lr * velocity)


def test_training_equals_a_plain_implementation():
    """Over 60 steps of training in float64 masks, values and gradients agree to 1e-6, and some weights return."""
    net, images, labels = classifier()
    reference = Reference([net[0].weight.detach(), net[2].weight.detach()], 0.75, begin=9, end=46)
    pruner = GMP(sparsity=0.75, begin=0.15, end=46 / 60, interval=0.05)
    layers = attach(pruner, [("0", net[0]), ("2", net[2])], DrawKey(0), hits_target=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.02)
    returned = 0
    for t in range(60):
        if t <= 46:
            (pruner.before_step if t < 46 else lambda *a: pruner.harden(*a, lambda: 0.0))(layers, at(pruner, t, 60))
        if t in [*range(9, 46, 3), 46]:
            before = reference.masks.copy()
            reference.update(t)
            returned += sum(int(((a == 0) & (b == 1)).sum()) for a, b in zip(before, reference.masks, strict=True))
        first, second = reference.effective()
        theirs = nn.functional.cross_entropy(torch.tanh(images @ first.t()) @ second.t(), labels)
        gradients = torch.autograd.grad(theirs, reference.weights)
        ours = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        ours.backward()
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
        for layer, module, mask, value, gradient in zip(
            layers, (net[0], net[2]), reference.masks, (first, second), gradients, strict=True
        ):
            assert torch.equal(layer.gate.keep, mask)
            torch.testing.assert_close(module.weight, value, rtol=0, atol=1e-6)
            torch.testing.assert_close(layer.dense.grad, gradient, rtol=0, atol=1e-6)
            assert not layer.dense.grad[mask == 0].any()
        optimizer.step()
        reference.step(gradients, lr=0.3, momentum=0.9, decay=0.02)
    assert returned > 0
    assert counts([layer.gate.keep for layer in layers]) == [160, 64]


def test_traits():
    """GMP hardens at `end`, takes one pass per step, hits its target, is not a control, and runs on `prune` only."""
    traits = GMP(sparsity=0.9, end=0.7).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.7, True, 1, None)
    assert GMP.tracks == {"prune"}


@pytest.mark.parametrize("bad", [{"begin": -0.1}, {"begin": 0.6}, {"begin": 0.59375}, {"end": 1.1}, {"end": 0.2}])
def test_an_invalid_window_is_rejected(bad):
    """Begin and end must be an increasing pair in [0, 1]; the message names both values."""
    begin, end = bad.get("begin", 0.3125), bad.get("end", 0.59375)
    with pytest.raises(ValueError, match=f"0 <= begin < end <= 1; found {begin}, {end}"):
        GMP(sparsity=0.9, **bad)


@pytest.mark.parametrize("interval", [0.0, -0.5, 1.5, math.nan])
def test_an_invalid_interval_is_rejected(interval):
    """An interval must be a positive fraction of the budget; the message names the value."""
    with pytest.raises(ValueError, match=f"in \\(0, 1\\]; found {interval}"):
        GMP(sparsity=0.9, interval=interval)


def test_a_real_run_keeps_exactly_the_budget(tmp_path):
    """A real run of eight steps keeps exactly n - round(.9 n) weights, and its log shows the schedule."""
    made = run(tmp_path, "gmp", 0.9, options={"begin": 0.25, "end": 0.75})
    assert made["status"] == "done"
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"] - round(0.9 * made["sparsity"]["prunable"])
    assert made["budget"]["harden_step"] == 6
    rows = [json.loads(line) for line in (folder(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    first, last = (row["diagnostics"]["scheduled_sparsity"] for row in rows)
    assert first == pytest.approx(0.9 * (1 - (1 / 2) ** 3), abs=1e-4)  # step 4 of 2 to 6
    assert last == pytest.approx(0.9, abs=1e-4)
    assert rows[0]["sparsity"] == pytest.approx(0.9 * (1 - (3 / 4) ** 3), abs=1e-3)  # the update before step 3
