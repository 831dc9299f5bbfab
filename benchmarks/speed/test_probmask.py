"""ProbMask's two costs beside their official formulas in plain torch: the projection and the relaxed mask."""

from __future__ import annotations

import pytest
import torch

from pruneboard_probmask.gate import relaxed
from pruneboard_probmask.projection import shift

SIZES = [2_000_000, 10_000_000]


def scores(n):
    """Probabilities one Adam step away from the budget of a tenth, in layers of a million."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(n, generator=generator).pow(9) + 6e-3 * torch.randn(n, generator=generator).sign()
    return list(values.split(1_000_000))


def bisection(layers, k):
    """The official loop: 21 halvings of [0, max], a pass over every layer each."""
    low, high = 0.0, max(float(layer.max()) for layer in layers)
    for _ in range(21):
        v = 0.5 * (low + high)
        total = sum((layer - v).clamp(0, 1).sum() for layer in layers)
        low, high = (v, high) if total > k else (low, v)
    return high


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", [shift, bisection], ids=["ours", "bisection"])
def test_projection(benchmark, method, n):
    """The shift of the projection onto the budget; both find it to a part in ten thousand of the budget."""
    benchmark.group = f"projection, {n:,} probabilities"
    layers = scores(n)
    k = 0.095 * n
    v = benchmark(method, layers, k)
    total = sum(float((layer - v).clamp(0, 1).sum(dtype=torch.float64)) for layer in layers)
    assert total == pytest.approx(k, rel=1e-4)


def official(weight, s, inverse_temperature, generator):
    """The relaxed mask as the official code writes it: two uniform draws and autograd."""
    u0, u1 = (torch.empty_like(s).uniform_(generator=generator) for _ in range(2))
    eps = 1e-20
    noise = -torch.log(torch.log(u0 + eps) / torch.log(u1 + eps) + eps)
    return weight * torch.sigmoid((torch.log(s + eps) - torch.log(1 - s + eps) + noise) * inverse_temperature)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", [relaxed, official], ids=["ours", "official"])
def test_relaxed_mask(benchmark, method, n):
    """Forward and backward of one relaxed mask while every probability is strictly between 0 and 1."""
    benchmark.group = f"relaxed mask, {n:,} weights"
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, generator=generator).requires_grad_()
    s = torch.rand(n, generator=generator).clamp(0.01, 0.99).requires_grad_()

    def both():
        return torch.autograd.grad(method(weight, s, 1.5, generator).sum(), (weight, s))

    assert all(bool(torch.isfinite(gradient).all()) for gradient in benchmark(both))
