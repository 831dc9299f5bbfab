"""Shared by the tests of ProbMask: the official equations in plain PyTorch, and small tensors.

The formulas are those of x-zho14/ProbMask-official@dff770a: utils/conv_type.py:33-43 (relaxation),
utils/net_utils.py:83-120 (projection), main.py:95-111 (schedules).
"""

from __future__ import annotations

import torch
from hypothesis import settings

EPS = 1e-20
EPOCHS = 300
FEW = settings(max_examples=50, deadline=None)


def generator(seed=0):
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def double(n, seed):
    """Uniform float64 draws."""
    return torch.rand(n, dtype=torch.float64, generator=generator(seed))


def total_of(tensors):
    """The sum over all tensors, accumulated in float64."""
    return sum(float(tensor.sum(dtype=torch.float64)) for tensor in tensors)


def official_noise(u0, u1):
    """The difference of two Gumbels, as the official code draws it."""
    return -torch.log(torch.log(u0 + EPS) / torch.log(u1 + EPS) + EPS)


def official_mask(s, inverse_temperature, u0, u1):
    """The official relaxed mask, differentiable by autograd."""
    return torch.sigmoid((torch.log(s + EPS) - torch.log(1 - s + EPS) + official_noise(u0, u1)) * inverse_temperature)


def two_uniforms(u, seed):
    """Two uniform draws whose Gumbels differ by logit(u): u splits the sum of two exponentials, which is Gamma(2)."""
    gamma = -torch.log(torch.rand(2, *u.shape, dtype=torch.float64, generator=generator(seed))).sum(0)
    return torch.exp(-(1 - u.double()) * gamma), torch.exp(-u.double() * gamma)


def official_shift(scores, k):
    """The official bisection: on [0, max s], until |f| < 1e-3 or after the 21st midpoint, sums in float32."""

    def excess(v):
        return sum(float((score - v).clamp(0, 1).sum()) for score in scores) - k

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, max(float(score.max()) for score in scores)
    for _ in range(21):
        v = (low + high) / 2
        found = excess(v)
        if abs(found) < 1e-3:
            break
        low, high = (v, high) if found > 0 else (low, v)
    return v


def official_rate(epoch, kept):
    """The kept fraction of an epoch of 300."""
    start, end = int(0.16 * EPOCHS), int(0.6 * EPOCHS)
    if epoch < start:
        return 1.0
    if epoch < end:
        return kept + (1 - kept) * (1 - (epoch - start) / (end - start)) ** 3
    return kept


def official_inverse_temperature(epoch):
    """T of an epoch of 300."""
    return 1 / ((1 - 0.03) * (1 - epoch / EPOCHS) + 0.03)
