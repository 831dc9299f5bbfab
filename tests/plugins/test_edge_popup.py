"""edge-popup's masks, initial scores, hooks and options."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from edge_popup_cases import FEW, LAYOUTS, STEPS, at, gate_of, generator, layers_of, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruneboard.api import Traits
from pruneboard.scores import budget, kept_of, uniform
from pruneboard.training.gates import DrawKey, attach, folded_weights
from pruneboard_edge_popup import EdgePopup, PopupGate, initial_scores

TIED = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


def started(sparsity=0.9, seed=0, layout=torch.contiguous_format):
    """Layers as they are in the first step of a run."""
    pruner = EdgePopup(sparsity=sparsity)
    layers = layers_of(pruner, layout)
    pruner.before_step(layers, at(0, seed))
    return layers


@FEW
@given(TIED)
def test_exactly_k_are_kept_for_every_k(values):
    """For every k, ties included, exactly k positions are kept, none below a pruned |score|, and masks are nested."""
    score = torch.tensor(values, dtype=torch.float32)
    before = torch.zeros(len(values), dtype=torch.bool)
    for k in range(len(values) + 1):
        kept = gate_of(torch.ones_like(score), score, k).kept(torch.ones_like(score))
        assert kept.dtype == torch.bool
        assert int(kept.sum()) == k
        assert not kept.any() or kept.all() or score.abs()[kept].min() >= score.abs()[~kept].max()
        assert not (before & ~kept).any()
        before = kept


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_equal_scores_keep_the_first_positions(value):
    """If all scores are equal, the first k positions in row-major order are kept, for every k."""
    weight = torch.ones(2, 3, 2, 2)
    for k in range(25):
        kept = gate_of(weight, torch.full_like(weight, value), k).kept(weight)
        assert torch.equal(kept.flatten(), torch.arange(24) < k)


@FEW
@given(st.integers(0, 24), st.booleans())
def test_layout_does_not_change_the_mask(k, ties):
    """Contiguous, channels_last and transposed scores give the same mask, with equal scores too."""
    weight = normal((2, 3, 2, 2), 1)
    score = torch.ones_like(weight) if ties else normal((2, 3, 2, 2), 2)
    expected = gate_of(weight, score, k).kept(weight)
    last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(gate_of(last, score, k).kept(last), expected)
    turned = weight.transpose(0, 3).contiguous().transpose(0, 3)
    assert not turned.is_contiguous()
    assert torch.equal(gate_of(turned, score, k).kept(turned), expected)


def test_masks_are_right_in_channels_last():
    """In channels_last a mask written through `flatten()`, as in the official code, is lost; ours is not."""
    weight = normal((4, 3, 5, 5), 1).to(memory_format=torch.channels_last)
    score = normal((4, 3, 5, 5), 2)
    gate = gate_of(weight, score, 30)
    assert not gate.score.is_contiguous()
    lost = gate.score.detach().clone()
    lost.flatten()[:] = 0
    assert lost.any()
    assert int((gate(weight) != 0).sum()) == 30


def test_every_budget_is_exact_where_the_official_rounding_is_not():
    """Of 204 pairs (k, n) with integer k n, int((1 - k) n) is off by one in 34; our count is exact in all."""
    wrong = 0
    cases = [(i, n) for n in (100, 1000, 9408, 36864) for i in range(1, 100) if i * n % 100 == 0]
    for percent, n in cases:
        keep = percent * n // 100
        wrong += int((1 - percent / 100) * n) != n - keep
        layer = nn.Linear(n, 1, bias=False)
        (attached,) = attach(EdgePopup(sparsity=1 - percent / 100), [("only", layer)], DrawKey(0), hits_target=True)
        attached.gate.set_budget(attached.keep)
        assert int(attached.gate.kept(attached.dense).sum()) == keep
    assert (len(cases), wrong) == (204, 34)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_every_layer_keeps_its_uniform_share(sparsity):
    """From the first step on each layer keeps the same share, and the sum is exactly the board's budget."""
    layers = started(sparsity)
    sizes = [layer.dense.numel() for layer in layers]
    kept = [int(layer.gate.kept(layer.dense).sum()) for layer in layers]
    assert kept == uniform(sizes, kept_of(sum(sizes), sparsity))
    assert sum(kept) == budget(layers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folded_weights_are_the_frozen_ones_bit_for_bit(layout):
    """A folded weight has the initial weight's bits where it is kept, and the bits of +0.0 elsewhere."""
    layers = started(0.7, layout=layout)
    for layer, folded in zip(layers, folded_weights(layers), strict=True):
        kept = layer.gate.kept(layer.dense)
        bits, before = folded.view(torch.int32), layer.dense.detach().contiguous().view(torch.int32)
        assert torch.equal(bits[kept], before[kept])
        assert not bits[~kept].any()


def test_training_and_evaluation_are_the_same():
    """The effective weight does not depend on the mode, and no gate draws random numbers."""
    weight = normal((6, 5), 1)
    gate = gate_of(weight, normal((6, 5), 2), 11)
    assert torch.equal(gate.train()(weight), gate.eval()(weight))


def test_a_new_gate_is_the_identity():
    """Before the first step, and at sparsity 0, the effective weight is the weight, bit for bit."""
    weight = normal((6, 5), 1)
    assert torch.equal(PopupGate(weight)(weight), weight)
    for layer in started(sparsity=0.0):
        assert torch.equal(layer.gate(layer.dense), layer.dense)


def test_scores_that_are_not_finite_are_rejected():
    """A score of NaN or infinity raises a ValueError instead of choosing a mask."""
    weight = torch.ones(3)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            gate_of(weight, torch.tensor([1.0, bad, 2.0]), 2)(weight)


@pytest.mark.parametrize("shape", [(100, 200), (64, 32, 3, 3), (500, 1, 5, 5)])
def test_initial_scores_are_uniform_in_the_kaiming_interval(shape):
    """Initial scores are U(-b, b) with b = 1 / sqrt(fan_in per output channel), by a Kolmogorov-Smirnov test."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    found = initial_scores(torch.empty(shape), generator(5))
    assert found.shape == shape
    assert float(found.abs().max()) <= bound
    assert scipy.stats.kstest(found.flatten().numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 0.01


def test_initial_scores_have_torchs_bounds():
    """The interval is that of torch's `kaiming_uniform_(a=sqrt(5))`, whose largest draws are close to its end."""
    theirs = nn.init.kaiming_uniform_(torch.empty(64, 32, 3, 3), a=math.sqrt(5), generator=generator(1))
    ours = initial_scores(torch.empty(64, 32, 3, 3), generator(2))
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=1e-3)


def test_initial_scores_depend_on_seed_and_layer_only():
    """Seed and layer alone determine the initial scores, in any memory layout; later steps draw none."""
    first, again = started(), started(layout=torch.channels_last)
    assert all(torch.equal(a.gate.score, b.gate.score) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].gate.score, first[1].gate.score)
    assert not torch.equal(first[0].gate.score, started(seed=1)[0].gate.score)
    before = first[0].gate.score.detach().clone()
    EdgePopup(sparsity=0.9).before_step(first, at(1))
    assert torch.equal(first[0].gate.score, before)


def test_initial_scores_leave_the_global_generator_alone():
    """Drawing the scores does not change torch's global random state."""
    pruner = EdgePopup(sparsity=0.5)
    layers = layers_of(pruner)
    before = torch.get_rng_state()
    pruner.before_step(layers, at(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_hardening_only_sets_the_budget():
    """The final mask is that of the last scores: hardening changes no score, validates nothing, keeps exactly k."""
    pruner = EdgePopup(sparsity=0.8)
    layers = started(0.8)
    before = [(layer.gate.score.detach().clone(), layer.gate.kept(layer.dense)) for layer in layers]
    for layer in layers:
        layer.gate.set_budget(layer.dense.numel())
    pruner.harden(layers, at(STEPS), lambda: pytest.fail("edge-popup must not validate"))
    for layer, (score, mask) in zip(layers, before, strict=True):
        assert torch.equal(layer.gate.score, score)
        assert torch.equal(layer.gate.kept(layer.dense), mask)


def test_score_and_budget_are_all_the_state():
    """A gate that loads another's score and budget keeps the same positions."""
    gate = gate_of(torch.ones(3, 4), torch.randn(3, 4), 5)
    assert list(gate.state_dict()) == ["score", "budget"]
    assert gate.score.requires_grad
    assert gate.score.shape == (3, 4)
    other = PopupGate(torch.ones(3, 4))
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.mask(), gate.mask())


def test_diagnostics_are_the_mean_absolute_score():
    """The mean |score| is taken over all layers' entries together."""
    layers = started()
    scores = torch.cat([layer.gate.score.detach().flatten() for layer in layers])
    found = EdgePopup(sparsity=0.9).diagnostics(layers, at(0))
    assert found == {"mean_score": pytest.approx(float(scores.abs().mean()))}


def test_it_runs_on_the_supermask_track_only():
    """edge-popup runs on the supermask track only, hardens at the end of the budget and hits its target."""
    assert EdgePopup.tracks == {"supermask"}
    assert EdgePopup(sparsity=0.5).traits("supermask") == Traits(harden_at=1.0)


@pytest.mark.parametrize("steps", [5_000, 14_080, 35_000, 500_000])
def test_published_budgets_keep_the_published_rate(steps):
    """From 5,000 steps on the optimizer is the official CIFAR one: SGD 0.1, momentum 0.9, weight decay 1e-4."""
    rule = EdgePopup(sparsity=0.5).gate_optimizer(steps)
    assert (rule.rule, rule.lr, rule.momentum, rule.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)


@FEW
@given(st.integers(0, 10_000), st.floats(0.01, 20), st.floats(0, 1000))
def test_the_rate_is_raised_for_short_budgets_only(steps, lr, travel):
    """The learning rate is lr, or travel / steps where that is more, but at most 10 unless lr itself is more."""
    found = EdgePopup(sparsity=0.5, lr=lr, travel=travel).gate_optimizer(steps).lr
    assert found >= lr
    assert found <= max(lr, 10)
    assert found == lr or found == 10 or found == pytest.approx(travel / max(1, steps))
    assert found * max(1, steps) >= min(travel, 10 * max(1, steps)) * (1 - 1e-12)


def test_travel_of_zero_never_raises_the_rate():
    """With travel=0 the given learning rate is used on any budget."""
    assert EdgePopup(sparsity=0.5, travel=0.0).gate_optimizer(1).lr == 0.1


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": -1.0}, {"travel": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1e-4}],
)
def test_invalid_options_are_rejected(options):
    """An option out of range raises a ValueError that names the value found."""
    with pytest.raises(ValueError, match="found"):
        EdgePopup(sparsity=0.9, **options)
