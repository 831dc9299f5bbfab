"""SNIP's scores against the official formula, its images, and a real run."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from scoring_cases import BUILDS, batch, masks_of, network, viewed
from torch import nn
from torch.nn import functional

from pruneboard.models import prunable_layers
from pruneboard.scores import kept_of
from pruneboard_snip import SNIP
from runs import run


class WithMask(nn.Module):
    """A layer like the official code's: it computes with `c * weight`, and the loss is differentiated in c."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.c = nn.Parameter(torch.ones_like(layer.weight))

    def forward(self, x):
        weight = self.c * self.layer.weight.detach()
        if isinstance(self.layer, nn.Linear):
            return functional.linear(x, weight, self.layer.bias)
        return functional.conv2d(x, weight, self.layer.bias, self.layer.stride, self.layer.padding)


def masked(net):
    """A copy of `net` with a multiplier for each of its weights, and the multipliers."""
    net = copy.deepcopy(net)
    found = []
    for name, layer in prunable_layers(net):
        parent, _, own = name.rpartition(".")
        replaced = WithMask(layer)
        setattr(net.get_submodule(parent), own, replaced)
        found.append(replaced.c)
    return net.train(), found


def official(net, images, labels):
    """Connection sensitivities as in the paper: |dL/dc|, divided by their sum."""
    net, c = masked(net)
    functional.cross_entropy(net(images), labels).backward()
    total = sum(each.grad.abs().sum() for each in c)
    return [each.grad.abs() / total for each in c]


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("sparsity", [0.5, 0.95])
def test_scores_and_masks_equal_a_plain_implementation(name, sparsity):
    """In float64 the scores are proportional to the official ones to 1e-6, and the masks are equal."""
    net, pruner = network(name), SNIP(sparsity=sparsity, images=32)
    view = viewed(pruner, net)
    found = pruner.score(view, iter([batch()]))
    expected = official(net, *batch())
    total = sum(score.sum() for score in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours / total, theirs, rtol=1e-6, atol=1e-12)
    flat = torch.cat([score.flatten() for score in expected])
    kept = flat.topk(kept_of(len(flat), sparsity)).indices.sort().values
    mask = torch.cat([keep.flatten() for keep in masks_of(view, found)])
    assert torch.equal(mask.nonzero().flatten(), kept)


@pytest.mark.parametrize("name", BUILDS)
def test_a_score_is_the_derivative_of_the_loss_in_the_mask(name):
    """The lowest, a middle and the highest score of each layer equal a central difference of the loss."""
    net, pruner = network(name), SNIP(sparsity=0.9, images=32)
    scores = pruner.score(viewed(pruner, net), iter([batch()]))
    probe, masks = masked(net)
    images, labels = batch()

    def loss(mask, place, value):
        with torch.no_grad():
            mask.view(-1)[place] = value
            found = functional.cross_entropy(probe(images), labels)
            mask.view(-1)[place] = 1
        return float(found)

    for score, mask in zip(scores, masks, strict=True):
        order = score.flatten().argsort()
        for place in (order[0], order[len(order) // 2], order[-1]):
            slope = (loss(mask, place, 1 + 1e-5) - loss(mask, place, 1 - 1e-5)) / 2e-5
            assert abs(slope) == pytest.approx(float(score.flatten()[place]), rel=1e-4, abs=1e-8)


def test_scores_do_not_depend_on_the_batch_size():
    """Without batch statistics, four batches of eight images give the scores of one batch of 32."""
    images, labels = batch()
    parts = list(zip(images.split(8), labels.split(8), strict=True))
    whole, split = (
        (pruner := SNIP(sparsity=0.9, images=32)).score(viewed(pruner, network("plain")), iter(stream))
        for stream in ([(images, labels)], parts)
    )
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("images", "batches"), [(1, 1), (8, 1), (9, 2), (32, 4), (33, 5)])
def test_whole_batches_are_taken_until_there_are_enough(images, batches):
    """Whole batches are taken until they hold `images`, all of them are counted, and no further one is read."""
    pruner = SNIP(sparsity=0.9, images=images)
    view = viewed(pruner, network("plain"))
    stream = (batch(8, seed) for seed in itertools.count())
    pruner.score(view, stream)
    assert view.images == 8 * batches
    assert torch.equal(next(stream)[0], batch(8, batches)[0])


def test_the_recipes_loss_is_differentiated():
    """Label smoothing changes the scores as it changes the loss."""
    net, pruner = network("plain"), SNIP(sparsity=0.9, images=32)
    found = pruner.score(viewed(pruner, net, label_smoothing=0.2), iter([batch()]))
    plain, c = masked(net)
    functional.cross_entropy(plain(batch()[0]), batch()[1], label_smoothing=0.2).backward()
    for ours, theirs in zip(found, c, strict=True):
        torch.testing.assert_close(ours, theirs.grad.abs(), rtol=1e-9, atol=1e-12)


def test_scoring_is_deterministic_and_has_no_side_effect():
    """Equal batches give equal scores bit for bit, and no weight or gradient changes."""
    pruner = SNIP(sparsity=0.9, images=32)
    view = viewed(pruner, network("normalized"))
    before = [layer.dense.detach().clone() for layer in view.layers]
    first, second = (pruner.score(view, iter([batch()])) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(layer.dense, b) for layer, b in zip(view.layers, before, strict=True))
    assert all(layer.dense.grad is None and layer.dense.requires_grad for layer in view.layers)


def test_fewer_than_one_image_is_rejected():
    """The error names the value found."""
    with pytest.raises(ValueError, match="images must be 1 or more; found 0"):
        SNIP(sparsity=0.9, images=0)


def test_traits():
    """SNIP hardens at 0, takes one pass per step, hits its target, is not a control, and runs on `prune` only."""
    traits = SNIP(sparsity=0.9).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.0, True, 1, None)
    assert SNIP.tracks == {"prune"}


def test_a_real_run_keeps_exactly_the_budget(tmp_path):
    """A real run keeps exactly n - round(.98 n) weights, and scoring adds 128 images twice to the training cost.

    The network has residual branches that start closed, so it is scored in both states.
    """
    made = run(tmp_path, "snip", 0.98)
    assert made["sparsity"]["kept"] == kept_of(made["sparsity"]["prunable"], 0.98)
    assert made["budget"]["harden_step"] == 0
    assert made["cost"]["train_macs"] == 3 * made["cost"]["macs_dense"] * (32 * 8 + 2 * 128)
