"""SynFlow's scores and rounds against the official loop, the conservation theorem, and a real run."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_cases import BUILDS, SIDE, masks_of, network, no_data, seeded, viewed
from torch import nn

from pruneboard.models import build_model, plan_model, prunable_layers
from pruneboard.scores import budget, kept_of
from pruneboard_synflow import SynFlow
from runs import run


def linearized(net):
    """A copy with the absolute value of every parameter; running statistics are above 0 already."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.abs_()
    return net


def official(net, sparsity, rounds):
    """The official loop in plain modules: mask, linearize, one image of ones, |p.grad * p|, a global threshold.

    Counts are exact and pruned weights never return, as our deviations have it. Returns the last scores and the masks.
    """
    net = copy.deepcopy(net)
    parameters = [layer.weight for _, layer in prunable_layers(net)]
    masks = [torch.ones_like(p) for p in parameters]
    n = sum(p.numel() for p in parameters)
    density = kept_of(n, sparsity) / n
    for round_ in range(1, rounds + 1):
        with torch.no_grad():
            for p, mask in zip(parameters, masks, strict=True):
                p.mul_(mask)
        probe = linearized(net)
        probe(torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64)).sum().backward()
        scores = [(layer.weight.grad * layer.weight).detach().abs() for _, layer in prunable_layers(probe)]
        flat = torch.cat([s.masked_fill(m == 0, -1).flatten() for s, m in zip(scores, masks, strict=True)])
        left = round(n * density ** (round_ / rounds))
        kept = torch.zeros(n, dtype=torch.float64)
        kept[flat.argsort(descending=True, stable=True)[:left]] = 1
        masks = [part.view_as(m) for part, m in zip(kept.split([m.numel() for m in masks]), masks, strict=True)]
    return scores, masks


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("sparsity", "rounds"), [(0.5, 1), (0.9, 7), (0.98, 30)])
def test_scores_and_masks_equal_a_plain_implementation(name, sparsity, rounds):
    """The last round's scores equal the official ones to 1e-6, and the masks are equal."""
    net, pruner = network(name), SynFlow(sparsity=sparsity, rounds=rounds)
    view = viewed(pruner, net)
    found = pruner.score(view, no_data())
    scores, masks = official(net, sparsity, rounds)
    for ours, theirs in zip(found, scores, strict=True):
        torch.testing.assert_close(ours.clamp(min=0), theirs, rtol=1e-6, atol=1e-300)
    for ours, theirs in zip(masks_of(view, found), masks, strict=True):
        assert torch.equal(ours, theirs.bool())


class RecordingView:
    """A view that records its calls."""

    def __init__(self, view):
        self.view, self.seen = view, []
        self.layers, self.image_shape, self.openings = view.layers, view.image_shape, view.openings

    def logits(self, images, weights, **how):
        """Record the call and pass it on."""
        self.seen.append((images.clone(), [w.detach() != 0 for w in weights], how))
        return self.view.logits(images, weights, **how)


def recorded(pruner, net):
    """A recording view of `net` after scoring, and the masks of every round."""
    view = RecordingView(viewed(pruner, net))
    masks = masks_of(view, pruner.score(view, no_data()))
    return view, [mask for _, mask, _ in view.seen] + [masks]


@pytest.mark.parametrize("name", BUILDS)
def test_rounds_are_nested_and_exact(name):
    """After round r exactly round(n d^(r/N)) weights remain, a subset of those before; the last count is the budget."""
    pruner = SynFlow(sparsity=0.98, rounds=20)
    view, history = recorded(pruner, network(name))
    n, k = sum(layer.dense.numel() for layer in view.layers), budget(view.layers)
    counts = [sum(int(mask.sum()) for mask in masks) for masks in history]
    assert counts == [round(n * (k / n) ** (r / 20)) for r in range(21)]
    assert counts[-1] == k == kept_of(n, 0.98)
    for before, after in itertools.pairwise(history):
        assert all(bool((a <= b).all()) for a, b in zip(after, before, strict=True))


def test_the_only_input_is_an_image_of_ones():
    """Each round makes one call in evaluation mode and float64 with one image of ones, which is charged."""
    view, _ = recorded(SynFlow(sparsity=0.9, rounds=12), network("normalized").float())
    assert len(view.seen) == view.view.images == 12
    for images, _, how in view.seen:
        assert torch.equal(images, torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64))
        assert how == {"training": False, "rest": torch.abs, "opened": True}


# The theorem


def feedforward(widths, *, convolutions, seed=0):
    """A chain of layers without biases; every path from the images to the classes passes through all of them."""

    def build():
        parts = [nn.Conv2d(3, widths[0], 3, bias=False), nn.ReLU()] if convolutions else [nn.Flatten()]
        sizes = widths if convolutions else (3 * SIDE * SIDE, *widths)
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            layer = nn.Conv2d(a, b, 3, padding=1, bias=False) if convolutions else nn.Linear(a, b, bias=False)
            parts += [layer, *([nn.BatchNorm2d(b)] if convolutions and i % 2 else []), nn.ReLU()]
        pool = [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()] if convolutions else []
        return nn.Sequential(*parts, *pool, nn.Linear(sizes[-1], 10, bias=False))

    return seeded(build, seed)


FEW = settings(deadline=None, max_examples=10)
CHAINS = st.builds(
    feedforward,
    st.lists(st.integers(3, 24), min_size=1, max_size=5).map(tuple),
    convolutions=st.booleans(),
    seed=st.integers(0, 99),
)


@given(net=CHAINS, sparsity=st.floats(0, 0.99))
@FEW
def test_every_layer_carries_the_same_flow(net, sparsity):
    """Conservation theorem: in every round the scores of each layer sum to R, whatever was pruned before."""
    pruner = SynFlow(sparsity=sparsity, rounds=8)
    view = viewed(pruner, net)
    _, history = recorded(pruner, net)
    for masks in history[:-1]:
        sums = [float(score.clamp(min=0).sum()) for score in pruner.saliency(view, masks)]
        weights = [layer.dense.double().abs() * mask for layer, mask in zip(view.layers, masks, strict=True)]
        ones = torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64)
        flow = float(view.logits(ones, weights, training=False, rest=torch.abs).sum().detach())
        assert view.openings == (True,)
        assert sums == pytest.approx([flow] * len(sums), rel=1e-9)


@given(net=CHAINS)
@FEW
def test_as_many_weights_as_layers_are_one_path(net):
    """Maximal critical compression: with as many weights as layers, each layer keeps one and they form a path."""
    targets = prunable_layers(net)
    n = sum(layer.weight.numel() for _, layer in targets)
    pruner = SynFlow(sparsity=1 - len(targets) / n)
    view = viewed(pruner, net)
    masks = masks_of(view, pruner.score(view, no_data()))
    assert [int(mask.sum()) for mask in masks] == [1] * len(targets)
    assert all(float(score.max()) > 0 for score in pruner.saliency(view, masks))


# Branches that start closed


def test_shortcuts_are_kept_with_the_score_of_the_closed_network():
    """A pruned ResNet passes its input on at the start, down to .995; by the opened score alone it does not."""
    net = build_model(plan(), seed=0)
    for sparsity in (0.9, 0.98, 0.995):
        pruner = SynFlow(sparsity=sparsity, rounds=15)
        view = viewed(pruner, net, side=32)
        assert view.openings == (True, False)
        assert distinguishes_images(view, pruner), sparsity
    view.openings = (True,)
    assert not distinguishes_images(view, pruner)


def plan():
    """Timm's test_resnet with ten classes at 32 px."""
    sizes = {"num_classes": 10, "image_size": 32, "original_size": 32}
    return plan_model("test_resnet", **sizes, enlarged=False, stem="stock")


def distinguishes_images(view, pruner):
    """Return whether the pruned network, as it starts, gives two images different logits."""
    masks = masks_of(view, pruner.score(view, no_data()))
    weights = [layer.dense * mask for layer, mask in zip(view.layers, masks, strict=True)]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = view.logits(images, weights, training=False, opened=False)
    return not torch.equal(one, other)


# Numbers


def deep_chain(weight, depth):
    """A chain of `depth` linear layers of 4 x 4 equal weights, whose flow grows with the depth."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4), *(nn.Linear(4, 4) for _ in range(depth)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(weight)
    return net


def test_a_flow_that_overflows_float32_is_scored():
    """A flow near 1e120 gives finite scores, while float32 ends at 3.4e38."""
    pruner = SynFlow(sparsity=0.5, rounds=2)
    scores = pruner.score(viewed(pruner, deep_chain(1e10, 10)), no_data())
    assert all(bool(torch.isfinite(score).all()) for score in scores)
    assert max(float(score.max()) for score in scores) > 1e100


def test_a_flow_that_overflows_float64_is_rejected():
    """A flow that is infinite in float64 raises a ValueError that names it."""
    pruner = SynFlow(sparsity=0.5)
    with pytest.raises(ValueError, match="is inf in float64: this network is too deep for SynFlow"):
        pruner.score(viewed(pruner, deep_chain(1e30, 12)), no_data())


def test_scoring_is_deterministic_and_has_no_side_effect():
    """Equal networks give equal scores bit for bit, and no weight or gradient changes."""
    pruner = SynFlow(sparsity=0.9, rounds=5)
    view = viewed(pruner, network("residual").float())
    before = [layer.dense.detach().clone() for layer in view.layers]
    first, second = (pruner.score(view, no_data()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(layer.dense, b) for layer, b in zip(view.layers, before, strict=True))
    assert all(layer.dense.grad is None for layer in view.layers)


def test_fewer_than_one_round_is_rejected():
    """The error names the value found."""
    with pytest.raises(ValueError, match="rounds must be 1 or more; found 0"):
        SynFlow(sparsity=0.9, rounds=0)


def test_traits():
    """SynFlow hardens at 0, takes one pass per step, hits its target, is not a control, and runs on `prune` only."""
    traits = SynFlow(sparsity=0.9).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.0, True, 1, None)
    assert SynFlow.tracks == {"prune"}


# Runs


def test_a_real_run_keeps_exactly_the_budget(tmp_path):
    """A real run keeps exactly n - round(.98 n) weights, and each round adds two images of ones to the training cost.

    The network has residual branches that start closed, so each round scores it in both states.
    """
    made = run(tmp_path, "synflow", 0.98, options={"rounds": 25})
    assert made["sparsity"]["kept"] == kept_of(made["sparsity"]["prunable"], 0.98)
    assert made["budget"]["harden_step"] == 0
    assert made["cost"]["train_macs"] == 3 * made["cost"]["macs_dense"] * (32 * 8 + 2 * 25)
