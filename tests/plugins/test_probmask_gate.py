"""ProbMask's relaxed mask: distribution, limits, gradients and random draws."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from probmask_cases import generator
from torch import nn

from pruneboard.training.gates import DrawKey, attach
from pruneboard_probmask import ProbMask
from pruneboard_probmask.gate import ProbabilityGate, relaxed, sample_mask


def implied_mask(probability, inverse_temperature, seed=0):
    """The relaxed mask itself: the effective weight of a weight of ones."""
    return relaxed(torch.ones_like(probability), probability, inverse_temperature, generator(seed))


def test_relaxed_mask_has_the_concrete_distribution():
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


def mean_mask(s, inverse_temperature):
    """E[sigmoid(T (logit s + g))] over g ~ Logistic(0, 1), by quadrature."""

    def weighted(g):
        return scipy.special.expit(inverse_temperature * (scipy.special.logit(s) + g)) * scipy.stats.logistic.pdf(g)

    return scipy.integrate.quad(weighted, -40, 40, points=[-scipy.special.logit(s)], limit=200)[0]


def assert_mean(m, expected):
    """Assert that the mean of the draws is `expected` within four standard errors."""
    assert abs(float(m.mean()) - expected) < 4 * float(m.std()) / math.sqrt(m.numel())


@pytest.mark.parametrize(
    ("s", "inverse_temperature", "published"),
    [
        (0.02, 1.0, 0.062),
        (0.02, 1.19, 0.049),
        (0.02, 2.0, 0.029),
        (0.001, 1.0, 0.0059),
        (0.001, 1.19, 0.0037),
        (0.001, 2.0, 0.0015),
    ],
)
def test_the_mean_is_biased_at_small_inverse_temperatures(s, inverse_temperature, published):
    """For small T the mean of the mask exceeds s by the amounts of the official relaxation."""
    expected = mean_mask(s, inverse_temperature)
    assert expected == pytest.approx(published, rel=0.04)
    assert_mean(implied_mask(torch.full((200_000,), s, dtype=torch.float64), inverse_temperature), expected)


@pytest.mark.parametrize("s", [0.001, 0.02, 0.3, 0.5, 0.9])
def test_the_bias_vanishes_as_the_temperature_falls(s):
    """The distance of E[m] from s shrinks with growing T, to below a hundredth of s at T = 33."""
    distances = [abs(mean_mask(s, inverse_temperature) - s) for inverse_temperature in (1.0, 1.5, 2.0, 5.0, 33.3)]
    assert all(a > b or a < 1e-9 for a, b in itertools.pairwise(distances))
    assert distances[-1] < 0.01 * s
    assert_mean(implied_mask(torch.full((200_000,), s, dtype=torch.float64), 33.3), mean_mask(s, 33.3))


def test_the_limit_is_the_hard_sample_of_the_same_draw():
    """As T grows, m tends to 1 where u > 1 - s and to 0 elsewhere, draw by draw."""
    s = torch.rand(20_000, dtype=torch.float64, generator=generator(1))
    u = torch.empty_like(s).uniform_(generator=generator(2))
    hard = (u > 1 - s).double()
    masks = [implied_mask(s, inverse_temperature, seed=2) for inverse_temperature in (33.3, 1e3, 1e5, 1e9)]
    assert all(torch.equal(m.round(), hard) for m in masks)
    distances = [float((m - hard).abs().mean()) for m in masks]
    assert all(a > b for a, b in itertools.pairwise(distances))
    assert distances[-1] < 1e-6


@pytest.mark.parametrize("inverse_temperature", [1.0, 2.0, 33.3])
def test_decided_probabilities_are_exact(inverse_temperature):
    """Where s is 0 or 1 the mask equals it exactly, and s gets no gradient, in float32."""
    s = torch.tensor([0.0, 1.0]).repeat(100_000).requires_grad_()
    m = relaxed(torch.ones_like(s), s, inverse_temperature, generator())
    assert torch.equal(m, s.detach())
    (gradient,) = torch.autograd.grad(m.sum(), s)
    assert not gradient.any()


def test_gradients_equal_autograd_of_the_papers_formula():
    """Both gradients agree with autograd of sigmoid(T (logit s + logit u)) to 1e-10 in float64."""
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


@pytest.mark.parametrize("inverse_temperature", [1.0, 5.0])
def test_gradients_equal_finite_differences(inverse_temperature):
    """Both gradients agree with finite differences on the same draw (torch's gradcheck)."""
    w = torch.randn(12, dtype=torch.float64, generator=generator(1), requires_grad=True)
    s = torch.rand(12, dtype=torch.float64, generator=generator(2)).mul(0.8).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: relaxed(a, b, inverse_temperature, generator(3)), (w, s))


def test_masks_are_never_subnormal():
    """No relaxed mask is a subnormal number, which would slow down every product with it."""
    s = torch.rand(100_000, generator=generator(1)).pow(12)
    m = implied_mask(s, 33.0)
    assert not ((m > 0) & (m < torch.finfo(torch.float32).tiny)).any()


def test_extreme_draws_leave_decided_probabilities_exact():
    """A draw of 0 or of the largest float below 1 gives m = s where s is 0 or 1, without NaN."""
    draws = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
    for certain in (0.0, 1.0):
        for inverse_temperature in (1.0, 33.3):
            m = sample_mask(torch.full((4,), certain), inverse_temperature, draws.clone())
            assert torch.equal(m, torch.full((4,), certain))


def test_gathering_leaves_decided_probabilities_alone():
    """With gathered probabilities the others have m = s, and both gradients follow the same formula."""
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


def test_refresh_lists_the_undecided_probabilities():
    """`refresh` lists exactly the probabilities strictly inside (0, 1), or None where they are many."""
    gate = ProbabilityGate(torch.ones(10, 10), learn=True)
    gate.refresh()
    assert gate.undecided.numel() == 0
    gate.probability.data[0, :5] = torch.tensor([0.0, 0.5, 1.0, 0.2, 0.0])
    gate.refresh()
    assert gate.undecided.tolist() == [1, 3]
    gate.probability.data.fill_(0.5)
    gate.refresh()
    assert gate.undecided is None


# Random draws


def attached(seed=0):
    """Two gates before equal weights of ones, all probabilities at 1/2 and T = 1, so that m equals the draw."""
    net = nn.ModuleList([nn.Linear(150, 200, bias=False), nn.Linear(150, 200, bias=False)])
    draw_key = DrawKey(seed)
    layers = attach(
        ProbMask(sparsity=0.5), [(str(i), module) for i, module in enumerate(net)], draw_key, hits_target=True
    )
    for layer in layers:
        layer.dense.data.fill_(1)
        layer.gate.probability.data.fill_(0.5)
        layer.gate.refresh()
    return net, layers, draw_key


def draws_of(attached_, index, step=0, forward_pass=0):
    """The draws of gate `index` at this step and pass."""
    net, _, draw_key = attached_
    draw_key.step, draw_key.forward_pass = step, forward_pass
    return net[index].weight.detach().flatten().double()


def test_noise_is_independent_across_passes_steps_and_layers():
    """Draws of different passes, steps, layers and neighbouring positions are uniform and uncorrelated."""
    there = attached()
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1)]
    drawn = [draws_of(there, *place) for place in places]
    for draw in drawn:
        assert scipy.stats.kstest(draw.numpy(), "uniform").pvalue > 1e-3
    pairs = [*itertools.combinations(drawn, 2), *((draw[1:], draw[:-1]) for draw in drawn)]
    for one, other in pairs:
        assert abs(scipy.stats.pearsonr(one, other).statistic) < 4 / math.sqrt(len(one))


def test_noise_depends_on_seed_step_pass_and_layer_only():
    """The same seed, step, pass and layer give the same mask in a new network; another seed gives another."""
    one, again, other = attached(), attached(), attached(seed=1)
    draws_of(one, 0, step=3)
    assert torch.equal(draws_of(one, 1, step=7, forward_pass=1), draws_of(again, 1, step=7, forward_pass=1))
    assert not torch.equal(draws_of(one, 1), draws_of(other, 1))


def test_evaluation_draws_nothing():
    """In evaluation mode the effective weight is w s for every batch, step and pass."""
    there = attached()
    net, layers, _ = there
    net.eval()
    first, second = draws_of(there, 0), draws_of(there, 0, step=5, forward_pass=1)
    assert torch.equal(first, second)
    assert torch.equal(first, (layers[0].dense * layers[0].gate.probability).detach().flatten().double())


def test_autocast_leaves_probabilities_in_float32():
    """Under bfloat16 autocast the effective weight and both gradients stay float32 and equal bit for bit."""

    def passed(*, mixed):
        net, (layer, _), _ = attached()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            effective = net[0].weight
            effective.square().sum().backward()
        return effective.detach(), layer.dense.grad, layer.gate.probability.grad

    for plain, mixed in zip(passed(mixed=False), passed(mixed=True), strict=True):
        assert mixed.dtype == torch.float32
        assert torch.equal(plain, mixed)


def test_a_hardened_gate_on_cuda_is_a_plain_product(rehearsed):
    """It draws nothing: the weight's gradient is the mask times the upstream one, and the probability gets none."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    gate, weight = ProbabilityGate(torch.ones(4), learn=True).cuda(), torch.randn(4).cuda().requires_grad_()
    with torch.no_grad():
        gate.probability.copy_(mask)
    gate.hardened = True
    gate.refresh()
    rehearsed.counts.clear()
    effective = gate(weight)
    assert rehearsed.counts.operations == {("other", "mul"): 1}
    assert torch.equal(effective.detach().cpu(), weight.detach().cpu() * mask)
    effective.sum().backward()
    assert torch.equal(weight.grad.cpu(), mask)
    assert gate.probability.grad is None
