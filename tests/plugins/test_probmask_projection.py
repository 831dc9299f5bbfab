"""ProbMask's projection onto {s in [0,1]^n, sum s <= K}: independent solvers, properties and edge cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from probmask_cases import FEW, generator

from pruneboard_probmask.projection import clipped, project, shift

TIED = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
SCORES = st.lists(st.floats(-2, 3, allow_nan=False) | TIED, min_size=1, max_size=40)
BUDGETS = st.floats(0, 45) | st.integers(0, 45).map(float)


def float64(values):
    """A float64 tensor of these values."""
    return torch.tensor(values, dtype=torch.float64)


# Against other solvers


def by_sorting(x, k):
    """The exact projection by its breakpoints, in numpy."""
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
@given(SCORES, BUDGETS)
def test_projection_equals_the_sorting_solution(x, k):
    """The projection equals the exact breakpoint solution to 1e-9, in float64."""
    (found,) = project([float64(x)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)


def by_active_sets(x, k):
    """The nearest feasible point among the minimizers of all faces: each entry at 0, at 1 or free, K reached or not.

    The solution of the quadratic program is one of them.
    """
    x = np.asarray(x, dtype=np.float64)
    state = np.stack(np.meshgrid(*[np.arange(3)] * len(x), indexing="ij"), axis=-1).reshape(-1, len(x))
    free, fixed = state == 2, (state == 1).astype(float)
    count = free.sum(1)
    spent = np.where(count > 0, ((free * x).sum(1) + fixed.sum(1) - k) / np.maximum(count, 1), 0.0)
    points = np.concatenate([np.where(free, x - v[:, None], fixed) for v in (0 * spent, spent)])
    feasible = (points >= -1e-12).all(1) & (points <= 1 + 1e-12).all(1) & (points.sum(1) <= k + 1e-12)
    points = points[feasible]
    return points[np.square(points - x).sum(1).argmin()]


@FEW
@given(st.lists(st.floats(-2, 3) | TIED, min_size=1, max_size=6), st.floats(0, 7) | st.integers(0, 7).map(float))
def test_projection_solves_the_quadratic_program_by_enumeration(x, k):
    """For up to six entries, no assignment of active constraints gives a nearer feasible point."""
    (found,) = project([float64(x)], k)
    np.testing.assert_allclose(found.numpy(), by_active_sets(x, k), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_projection_equals_scipys_quadratic_program(seed):
    """For twelve entries, a general solver of min ||s - x||^2 under the constraints finds the same point."""
    random = np.random.default_rng(seed)
    x, k = random.uniform(-0.5, 1.5, 12), random.uniform(0.5, 5)
    budget = {"type": "ineq", "fun": lambda s: k - s.sum(), "jac": lambda s: -np.ones(12)}
    solved = scipy.optimize.minimize(
        lambda s: 0.5 * np.square(s - x).sum(),
        np.full(12, min(0.5, k / 12)),
        jac=lambda s: s - x,
        bounds=[(0, 1)] * 12,
        constraints=[budget],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    (found,) = project([torch.from_numpy(x)], k)
    np.testing.assert_allclose(found.numpy(), solved.x, atol=1e-6)


@FEW
@given(SCORES, BUDGETS)
def test_projection_satisfies_the_kkt_conditions(x, k):
    """P = clip(x - v, 0, 1) with one v >= 0 for all entries, and v is 0 unless the sum equals the budget."""
    scores = float64(x)
    v = shift([scores], k)
    (found,) = project([scores], k)
    assert v >= 0
    assert torch.equal(found, clipped(scores, v))
    assert v == 0 or k - float(found.sum()) <= 1e-6 * k + 1e-12


# Properties


@FEW
@given(SCORES, BUDGETS)
def test_projection_is_feasible(x, k):
    """P(x) lies in [0,1]^n, its float64 sum is at most K without tolerance, and equals K where it can."""
    scores = float64(x)
    (found,) = project([scores], k)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    possible = float(scores.clamp(0, 1).sum())
    assert min(k, possible) * (1 - 1e-6) - 1e-12 <= float(found.sum()) <= k


@FEW
@given(SCORES, st.floats(0, 5))
def test_projection_of_a_feasible_point_only_clips(x, slack):
    """If the clipped sum is at most K, then v is 0 and P(x) = clip(x, 0, 1) bit for bit; so is P of that."""
    scores = float64(x)
    clip = scores.clamp(0, 1)
    k = float(clip.sum()) + slack
    assert shift([scores], k) == 0
    assert torch.equal(project([scores], k)[0], clip)
    assert torch.equal(project([clip], k)[0], clip)


@FEW
@given(SCORES, BUDGETS)
def test_projection_is_idempotent(x, k):
    """P(P(x)) = P(x): bit for bit in float64, up to rounding in float32."""
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-6)):
        (once,) = project([float64(x).to(dtype)], k)
        (twice,) = project([once], k)
        torch.testing.assert_close(twice, once, rtol=0, atol=tolerance)


@FEW
@given(SCORES, BUDGETS, st.randoms(use_true_random=False))
def test_projection_commutes_with_permutations(x, k, random):
    """P of a permuted x is the permuted P(x)."""
    order = list(range(len(x)))
    random.shuffle(order)
    (plain,), (permuted,) = project([float64(x)], k), project([float64(x)[order]], k)
    torch.testing.assert_close(permuted, plain[order], rtol=0, atol=1e-9)


@FEW
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.lists(st.floats(0, 0.5), min_size=40, max_size=40),
    st.floats(0.01, 40),
    st.floats(0, 5),
)
def test_the_shift_falls_with_the_budget_and_rises_with_the_scores(x, more, k, extra):
    """A larger K gives a smaller v, and larger scores a larger one (for scores in [0, 1], where v is unique)."""
    scores = float64(x)
    v = shift([scores], k)
    assert shift([scores], k + extra) <= v + 1e-9
    assert shift([scores + float64(more[: len(x)])], k) >= v - 1e-9


@FEW
@given(SCORES, SCORES, BUDGETS)
def test_projection_is_nonexpansive_and_keeps_order(x, y, k):
    """||P(x) - P(y)|| <= ||x - y||, and x_i >= x_j implies P_i >= P_j."""
    n = min(len(x), len(y))
    a, b = float64(x[:n]), float64(y[:n])
    (pa,), (pb,) = project([a], k), project([b], k)
    assert float((pa - pb).norm()) <= float((a - b).norm()) + 1e-9
    assert torch.equal(pa[a.argsort(stable=True)], pa.sort().values)


@FEW
@given(SCORES, BUDGETS, st.integers(0, 40))
def test_projection_of_layers_is_the_projection_of_their_concatenation(x, k, cut):
    """All layers share one budget: splitting the scores into layers changes nothing."""
    whole = float64(x)
    parts = [part for part in (whole[:cut], whole[cut:]) if part.numel()]
    torch.testing.assert_close(torch.cat(project(parts, k)), project([whole], k)[0], rtol=0, atol=1e-9)


def test_projection_does_not_depend_on_memory_layout():
    """Channels-last, transposed and sliced layers are projected like their flat copies, and are not modified."""
    image, matrix, wide = (torch.rand(shape, generator=generator(4)) for shape in ((4, 3, 2, 2), (5, 7), (8, 6)))
    strided = [image.to(memory_format=torch.channels_last), matrix.t(), wide[::2]]
    before = [layer.clone() for layer in strided]
    found, flat = project(strided, 20.0), project([layer.flatten() for layer in strided], 20.0)
    assert all(torch.equal(a, b.reshape(a.shape)) for a, b in zip(found, flat, strict=True))
    assert all(torch.equal(layer, copy) for layer, copy in zip(strided, before, strict=True))


@FEW
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), BUDGETS)
def test_projection_is_feasible_for_extreme_scores(x, k):
    """Scores up to 1e6 in magnitude are projected onto the feasible set too."""
    (found,) = project([float64(x)], k)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float(found.sum()) <= k


# Edge cases


@pytest.mark.parametrize("x", [[0.5] * 7, [2.0] * 7, [-1.0] * 7, [1.0], [0.3], [1.7], [-0.2]])
@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 3.0, 3.7, 7.0, 9.0])
def test_projection_edge_cases(x, k):
    """Equal scores, all above 1, all below 0, one entry; K = 0, fractional, n and above n."""
    (found,) = project([float64(x)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)
    assert float(found.sum()) <= k


def test_a_budget_of_zero_and_of_everything():
    """K = 0 gives exact zeros; K >= n only clips."""
    scores = float64([-1.0, 0.2, 0.7, 1.5])
    assert not project([scores], 0.0)[0].any()
    for k in (4.0, 5.0):
        assert project([scores], k)[0].tolist() == [0.0, 0.2, 0.7, 1.0]


def test_a_negative_budget_is_rejected():
    """A negative budget, which has no feasible point, raises a ValueError."""
    with pytest.raises(ValueError, match="0 or more"):
        shift([torch.ones(3)], -1.0)
