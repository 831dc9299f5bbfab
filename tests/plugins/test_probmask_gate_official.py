"""ProbMask's relaxed mask and its gradients equal the official code's on the same noise."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from probmask_cases import double, generator, official_mask, official_noise, two_uniforms

from pruneboard_probmask.gate import relaxed, sample_mask


def probabilities(n, seed):
    """Probabilities whose logits are spread over -14 to 14, to cover both ends of (0, 1)."""
    return torch.sigmoid(28 * double(n, seed) - 14)


@pytest.mark.parametrize("inverse_temperature", [1.0, 1.94, 5.2, 33.3])
def test_masks_equal_the_official_ones(inverse_temperature):
    """With u = sigmoid(g) from the official two draws, our mask equals the official one to 1e-6, in float64."""
    s, u0, u1 = probabilities(20_000, 1), double(20_000, 2), double(20_000, 3)
    u = torch.sigmoid(official_noise(u0, u1))
    ours = sample_mask(s, inverse_temperature, u.clone())
    assert float(u.min()) > 2.0**-25  # no draw is below the floor of ours
    torch.testing.assert_close(ours, official_mask(s, inverse_temperature, u0, u1), rtol=1e-6, atol=1e-25)


@pytest.mark.parametrize("inverse_temperature", [1.0, 1.94, 5.2, 33.3])
def test_gradients_equal_autograd_of_the_official_formula(inverse_temperature):
    """On the same noise the effective weight, dL/dw and dL/ds equal the official ones to 1e-6, in float64."""
    s = probabilities(20_000, 1).requires_grad_()
    w, upstream = (torch.randn(20_000, dtype=torch.float64, generator=generator(i)) for i in (2, 3))
    w.requires_grad_()
    ours = relaxed(w, s, inverse_temperature, generator(4))
    u = torch.empty_like(s.detach()).uniform_(generator=generator(4))
    theirs = w * official_mask(s, inverse_temperature, *two_uniforms(u, 5))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-24)
    (to_w, to_s), (their_w, their_s) = (torch.autograd.grad(value, (w, s), upstream) for value in (ours, theirs))
    torch.testing.assert_close(to_w, their_w, rtol=1e-6, atol=1e-24)
    # 1 - m is accurate to 1e-16 only, and dm/ds divides that by s (1 - s)
    error = (to_s - their_s).abs() - 1e-6 * their_s.abs()
    assert bool((error <= 1e-13 * (inverse_temperature * upstream * w / (s * (1 - s))).abs()).all())


def test_the_two_uniforms_of_the_tests_are_uniform():
    """The pair of `two_uniforms` is uniform on the unit square, and its Gumbels differ by the draw's logit."""
    u = double(20_000, 1)
    u0, u1 = two_uniforms(u, 2)
    torch.testing.assert_close(official_noise(u0, u1), torch.logit(u), rtol=1e-8, atol=1e-8)
    assert all(scipy.stats.kstest(draw.numpy(), "uniform").pvalue > 0.01 for draw in (u0, u1))
    assert abs(scipy.stats.pearsonr(u0, u1).statistic) < 4 / math.sqrt(20_000)


def test_a_probability_of_zero_gets_no_gradient():
    """Deviation: at s = 0 the official epsilon gives a gradient at T = 1 and none at T = 33; ours gives none."""
    u0, u1 = double(100_000, 1), double(100_000, 2)
    slopes = []
    for inverse_temperature in (1.0, 33.3):
        s = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
        slopes.append(float(torch.autograd.grad(official_mask(s, inverse_temperature, u0, u1).sum(), s)[0].mean()))
        ours = relaxed(torch.ones_like(s), s, inverse_temperature, generator(3))
        assert not torch.autograd.grad(ours.sum(), s)[0].any()
    assert slopes[0] > 1
    assert slopes[1] == 0


def test_gradients_equal_the_official_ones_in_distribution():
    """On independent noise, our dm/ds and the official one have the same mean and the same distribution."""
    s = torch.full((200_000,), 0.4, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(relaxed(torch.ones_like(s), s, 1.9, generator(5)).sum(), s)[0]
    theirs = torch.autograd.grad(official_mask(s, 1.9, double(200_000, 6), double(200_000, 7)).sum(), s)[0]
    error = math.sqrt(float(ours.var() + theirs.var()) / 200_000)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 0.01
