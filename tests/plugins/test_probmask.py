"""ProbMask against its paper: relaxation, gradient, projection, schedules, hardening."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruneboard.api import Layer, Progress
from pruneboard_probmask import ProbMask, sample
from pruneboard_probmask.gate import ProbabilityGate, relaxed, sample_mask
from pruneboard_probmask.projection import project, shift

FEW = settings(max_examples=50, deadline=None)
SCORES = st.lists(st.floats(-2, 3, allow_nan=False), min_size=1, max_size=40)


def generator(seed=0):
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def implied_mask(probability, inverse_temperature, seed=0):
    """The relaxed mask itself: the effective weight of an all-ones weight."""
    return relaxed(torch.ones_like(probability), probability, inverse_temperature, generator(seed))


class Writer:
    """Stands for the engine at stage 0, where a write is a write."""

    def assign(self, parameter, new):
        with torch.no_grad():
            parameter.copy_(new)

    def reset_optimizer_state(self, parameter, mask):
        raise AssertionError("ProbMask resets nothing")


def progress(step, total=320, harden_step=300):
    """What hooks are told at `step` of a run of 320 steps that hardens at 300."""
    phase = "search" if step < harden_step else "finetune"
    return Progress(step, total, harden_step, phase, lambda index: generator(index + 1), Writer())


def layers_of(pruner, *shapes):
    """Layers of random weights with the pruner's gates, as the harness would build them."""
    built = []
    for index, shape in enumerate(shapes):
        weight = nn.Parameter(torch.randn(shape, generator=generator(index)))
        n = weight.numel()
        keep = n - round(pruner.sparsity * n)
        built.append(Layer(index, f"layer{index}", weight, pruner.gate(weight.detach()), keep))
    return built


# --- relaxation -------------------------------------------------------------------------------------


def test_relaxed_mask_is_the_concrete_distribution():
    """logit(m)/T - logit(s) is Logistic(0, 1), by a Kolmogorov-Smirnov test on 20,000 draws."""
    s = torch.full((20_000,), 0.3, dtype=torch.float64)
    m = implied_mask(s, 2.0)
    noise = torch.logit(m) / 2.0 - math.log(0.3 / 0.7)
    assert scipy.stats.kstest(noise.numpy(), "logistic").pvalue > 0.01


def test_hard_limit_is_bernoulli():
    """At a high inverse temperature the mean of the mask is the probability, within four standard errors."""
    s = torch.full((40_000,), 0.2)
    m = implied_mask(s, 1e4)
    assert abs(float(m.mean()) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 40_000)


@pytest.mark.parametrize("inverse_temperature", [1.0, 2.0, 33.3])
def test_certain_probabilities_are_exact(inverse_temperature):
    """Where s is 0 or 1 the mask equals it exactly, and no gradient reaches s, in float32."""
    s = torch.tensor([0.0, 1.0]).repeat(100_000).requires_grad_()
    m = relaxed(torch.ones_like(s), s, inverse_temperature, generator())
    assert torch.equal(m, s.detach())
    (gradient,) = torch.autograd.grad(m.sum(), s)
    assert not gradient.any()


def test_gradients_equal_autograd_of_the_paper_formula():
    """Both gradients agree with autograd through sigmoid(T (logit s + logit u)) to 1e-10 in float64."""
    w = torch.randn(500, dtype=torch.float64, generator=generator(1), requires_grad=True)
    s = torch.rand(500, dtype=torch.float64, generator=generator(2)).mul(0.98).add(0.01).requires_grad_()
    upstream = torch.randn(500, dtype=torch.float64, generator=generator(3))
    ours = relaxed(w, s, 3.0, generator(4))
    u = torch.empty_like(s.detach()).uniform_(generator=generator(4))
    reference = w * torch.sigmoid(3.0 * (torch.log(s) - torch.log(1 - s) + torch.log(u) - torch.log(1 - u)))
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    for found, expected in zip(
        torch.autograd.grad(ours, (w, s), upstream), torch.autograd.grad(reference, (w, s), upstream), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gradients_equal_the_official_two_gumbel_formula_in_distribution():
    """dm/ds has the mean of the official formula's, written out with its two uniforms and epsilons."""
    s = torch.full((200_000,), 0.4, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(relaxed(torch.ones_like(s), s, 1.9, generator(5)).sum(), s)[0]
    u0, u1 = (torch.rand(200_000, dtype=torch.float64, generator=generator(i)) for i in (6, 7))
    eps = 1e-20
    g = -torch.log(torch.log(u0 + eps) / torch.log(u1 + eps) + eps)
    official = torch.sigmoid((torch.log(s + eps) - torch.log(1 - s + eps) + g) * 1.9)
    theirs = torch.autograd.grad(official.sum(), s)[0]
    error = math.sqrt(float(ours.var() + theirs.var()) / 200_000)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 0.01


def test_no_subnormal_masks():
    """No relaxed mask is a subnormal number, which would slow every product with it."""
    s = torch.rand(100_000, generator=generator(1)).pow(12)
    m = implied_mask(s, 33.0)
    assert not ((m > 0) & (m < torch.finfo(torch.float32).tiny)).any()


def test_extreme_draws_leave_certain_probabilities_exact():
    """Even a draw of 0 or of the largest float below 1 gives m = s where s is 0 or 1: no slope, no NaN."""
    draws = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
    for certain in (0.0, 1.0):
        for inverse_temperature in (1.0, 33.3):
            m = sample_mask(torch.full((4,), certain), inverse_temperature, draws.clone())
            assert torch.equal(m, torch.full((4,), certain))


def test_drawing_for_the_undecided_only_changes_nothing_else():
    """With few undecided probabilities the rest keep m = s, and both gradients follow the same formula."""
    weight = torch.randn(1000, generator=generator(), requires_grad=True)
    s = torch.zeros(1000)
    s[::2] = 1
    few = torch.arange(0, 1000, 10)
    s[few] = 0.3
    s.requires_grad_()
    effective = relaxed(weight, s, 2.0, generator(1), few)
    to_weight, to_s = torch.autograd.grad(effective.sum(), (weight, s))
    decided = torch.ones(1000, dtype=torch.bool)
    decided[few] = False
    assert torch.equal(to_weight[decided], s.detach()[decided])
    assert not to_s[decided].any()
    m = to_weight[few]
    torch.testing.assert_close(to_s[few], weight.detach()[few] * 2.0 * m * (1 - m) / 0.21)


def test_undecided_are_found_before_every_step():
    """`refresh` lists exactly the probabilities strictly inside (0, 1), or gives up the list where it is long."""
    gate = ProbabilityGate(torch.ones(10, 10), learn=True)
    gate.refresh()
    assert gate.undecided.numel() == 0
    gate.probability.data[0, :5] = torch.tensor([0.0, 0.5, 1.0, 0.2, 0.0])
    gate.refresh()
    assert gate.undecided.tolist() == [1, 3]
    gate.probability.data.fill_(0.5)
    gate.refresh()
    assert gate.undecided is None


# --- projection -------------------------------------------------------------------------------------


def by_sorting(x, k):
    """The exact projection by its breakpoints, in numpy: the independent reference."""
    x = np.asarray(x, dtype=np.float64)
    total = lambda v: np.clip(x - v, 0, 1).sum()  # noqa: E731
    if total(0.0) <= k:
        return np.clip(x, 0, 1)
    points = np.unique(np.concatenate([x, x - 1, [0.0]]))
    points = points[points >= 0]
    for low, high in itertools.pairwise(points):
        if total(low) >= k >= total(high):
            slope = (total(low) - total(high)) / (high - low)
            v = low if slope == 0 else low + (total(low) - k) / slope
            return np.clip(x - v, 0, 1)
    return np.clip(x - points[-1], 0, 1)


@FEW
@given(SCORES, st.floats(0, 45))
def test_projection_equals_the_sorting_solution(x, k):
    """Newton with a bracket gives the exact breakpoint solution, in float64."""
    (found,) = project([torch.tensor(x, dtype=torch.float64)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)


@FEW
@given(SCORES, st.floats(0, 45))
def test_projection_is_feasible_and_idempotent(x, k):
    """P(x) lies in [0,1]^n with sum at most k, and projecting again changes nothing beyond rounding."""
    (once,) = project([torch.tensor(x, dtype=torch.float64)], k)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 1
    assert float(once.sum()) <= k + 1e-12 * max(k, 1)
    (twice,) = project([once], k)
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-9)


@FEW
@given(SCORES, SCORES, st.floats(0, 45))
def test_projection_does_not_expand_and_keeps_order(x, y, k):
    """||P(x) - P(y)|| <= ||x - y||, and x_i >= x_j implies P_i >= P_j."""
    n = min(len(x), len(y))
    a, b = (torch.tensor(v[:n], dtype=torch.float64) for v in (x, y))
    (pa,), (pb,) = project([a], k), project([b], k)
    assert float((pa - pb).norm()) <= float((a - b).norm()) + 1e-9
    assert torch.equal(pa[a.argsort(stable=True)], pa.sort().values)


@FEW
@given(SCORES, st.floats(0, 45), st.integers(0, 40))
def test_projection_of_layers_is_the_projection_of_their_concatenation(x, k, cut):
    """One budget for all layers: splitting the scores into layers changes nothing."""
    whole = torch.tensor(x, dtype=torch.float64)
    parts = [part for part in (whole[:cut], whole[cut:]) if part.numel()]
    torch.testing.assert_close(torch.cat(project(parts, k)), project([whole], k)[0], rtol=0, atol=1e-9)


def test_projection_minimizes_the_distance():
    """No point of a fine grid of the feasible set is nearer than the projection, for n = 3."""
    x, k = torch.tensor([0.9, 0.4, 1.3], dtype=torch.float64), 1.2
    (found,) = project([x], k)
    axis = torch.linspace(0, 1, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    grid = grid[grid.sum(1) <= k]
    assert float((found - x).norm()) <= float((grid - x).norm(dim=1).min()) + 1e-12


def test_projection_of_25_million_float32_entries():
    """At 25 million entries the float64 sum hits K to 1e-6 of it and does not exceed it."""
    scores = [torch.rand(5_000_000, generator=generator(i)) for i in range(5)]
    k = 2_500_000.0
    total = sum(float(p.sum(dtype=torch.float64)) for p in project(scores, k))
    assert k * (1 - 1e-6) <= total <= k


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("seed", range(6))
def test_projection_in_float32_hits_the_budget_step_after_step(seed, share):
    """Over 30 steps of small noise on 50,000 float32 scores each sum is within 1e-5 of K and never above it.

    Rounding hides the progress of a small Newton step; taking the end of the bracket instead would prune all.
    """
    scores = torch.full((50_000,), 1.0)
    for step in range(30):
        k = 50_000 * (share + (1 - share) * (1 - step / 30) ** 3)
        scores = scores + 6e-3 * torch.randn(50_000, generator=generator(100 * seed + step)).sign()
        possible = float(scores.clamp(0, 1).sum(dtype=torch.float64))
        (scores,) = project([scores], k)
        total = float(scores.sum(dtype=torch.float64))
        assert min(k, possible) * (1 - 1e-5) <= total <= k


@pytest.mark.parametrize("x", [[0.5] * 7, [2.0] * 7, [-1.0] * 7, [1.0]])
@pytest.mark.parametrize("k", [0.0, 0.5, 3.0, 7.0, 9.0])
def test_projection_edge_cases(x, k):
    """Equal scores, all above 1, all below 0, one entry; K of 0, fractional, n and above n."""
    (found,) = project([torch.tensor(x, dtype=torch.float64)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)


def test_projection_refuses_a_negative_budget():
    """A negative budget has no feasible point and is refused."""
    with pytest.raises(ValueError, match="0 or more"):
        shift([torch.ones(3)], -1.0)


# --- schedules --------------------------------------------------------------------------------------


def test_temperature_follows_the_official_line():
    """1/T falls linearly from 1 to 0.03: T is 1.18, 1.94, 5.2 and 33.3 at epochs 48, 150, 250 and 300 of 300."""
    pruner = ProbMask(sparsity=0.9)
    found = [pruner.inverse_temperature(epoch / 300) for epoch in (0, 48, 150, 250, 300)]
    np.testing.assert_allclose(found, [1, 1.1837, 1.9417, 5.2174, 33.333], rtol=1e-3)


def test_budget_follows_the_official_cubic():
    """The kept share is 1 until .16, the paper's cubic until .6, and the target from there on."""
    pruner = ProbMask(sparsity=0.9)
    rate = [0.1 + 0.9 * pruner.kept_share(epoch / 300) for epoch in (47, 48, 49, 60, 80, 100, 120, 150, 180, 299)]
    np.testing.assert_allclose(rate, [1, 1, 0.980, 0.776, 0.491, 0.300, 0.185, 0.111, 0.1, 0.1], atol=1e-3)


def test_constraint_holds_after_every_projection():
    """After each step's projection the sum of all probabilities is within that step's budget."""
    pruner = ProbMask(sparsity=0.9)
    layers = layers_of(pruner, (20, 30), (50,))
    for step in range(40, 300, 13):
        for layer in layers:
            noise = torch.randn(layer.dense.shape, generator=generator(step)) * 0.05
            layer.gate.probability.data.add_(noise)
        pruner.after_step(layers, progress(step))
        total = sum(float(layer.gate.probability.detach().sum(dtype=torch.float64)) for layer in layers)
        assert step <= 48 or total <= 65 + 585 * pruner.kept_share(step / 300)


# --- hardening --------------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 60), st.integers(0, 1000))
def test_sampled_masks_keep_exactly_k(k, seed):
    """Whatever was drawn, the repaired mask keeps exactly k positions over all layers."""
    probabilities = [torch.rand(20, generator=generator(seed)), torch.rand(5, 8, generator=generator(seed + 1))]
    masks = sample(probabilities, k, [generator(seed), generator(seed + 1)])
    assert sum(int(mask.sum()) for mask in masks) == k
    assert [mask.shape for mask in masks] == [p.shape for p in probabilities]


def test_repair_drops_the_least_certain_and_returns_the_most():
    """A drawn position is dropped only for more probable drawn ones; one returns only after all drawn ones."""
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
    """With the budget at the drawn count, position i is kept with probability s_i."""
    p = torch.tensor([0.1, 0.5, 0.9]).repeat(4000)
    (mask,) = sample([p], 6000, [generator(3)])
    kept = mask.reshape(-1, 3).double().mean(0)
    np.testing.assert_allclose(kept.numpy(), [0.1, 0.5, 0.9], atol=0.03)


def test_hardening_keeps_the_sample_with_the_best_validation():
    """The mask left in the gates is the one whose validation was highest, and validation ran once a sample."""
    pruner = ProbMask(sparsity=0.5, samples=5)
    layers = layers_of(pruner, (40,), (10, 10))
    for layer in layers:
        layer.gate.probability.data.uniform_(generator=generator(9))
    seen, answers = [], iter([0.1, 0.7, 0.3, 0.7, 0.2])

    def validate():
        seen.append([layer.gate.probability.detach().clone() for layer in layers])
        return next(answers)

    pruner.harden(layers, progress(300), validate)
    assert len(seen) == 5
    assert all(torch.equal(layer.gate.probability, best) for layer, best in zip(layers, seen[1], strict=True))
    assert sum(int(layer.gate.kept(layer.dense).sum()) for layer in layers) == 70


def test_hardened_gate_is_a_mask():
    """After hardening training and evaluation give the same weight, with exact zeros where nothing is kept."""
    pruner = ProbMask(sparsity=0.8)
    (layer,) = layers_of(pruner, (10, 10))
    layer.gate.probability.data.uniform_(generator=generator(4))
    pruner.harden([layer], progress(300), lambda: 0.5)
    effective = layer.gate.train()(layer.dense)
    assert torch.equal(effective, layer.gate.eval()(layer.dense))
    assert int((effective != 0).sum()) == 20


def test_zero_sparsity_learns_nothing():
    """At sparsity 0 there is one pass, no trainable probability, and the gate is the identity bit for bit."""
    pruner = ProbMask(sparsity=0.0)
    (layer,) = layers_of(pruner, (10, 10))
    assert pruner.traits("prune").forward_passes == 1
    assert not layer.gate.probability.requires_grad
    assert torch.equal(layer.gate(layer.dense), layer.dense)


@pytest.mark.parametrize(
    "options",
    [
        {"begin": 0.7},
        {"end": 1.1},
        {"final_temperature": 0.0},
        {"passes": 0},
        {"samples": 0},
        {"harden_at": 0},
        {"lr": 0},
    ],
)
def test_impossible_options_are_refused(options):
    """Options that no search could mean raise ValueError naming what is allowed."""
    with pytest.raises(ValueError, match="found"):
        ProbMask(sparsity=0.9, **options)
