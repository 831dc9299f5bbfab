"""ProbMask's projection onto {s in [0,1]^n, sum s <= K}: against independent solvers, and its properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pruneboard_probmask import projection
from pruneboard_probmask.projection import clipped, project, shift

FEW = settings(max_examples=50, deadline=None)
TIED = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
SCORES = st.lists(st.floats(-2, 3, allow_nan=False) | TIED, min_size=1, max_size=40)
BUDGETS = st.floats(0, 45) | st.integers(0, 45).map(float)


def generator(seed=0):
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def double(values):
    """A float64 tensor of these values."""
    return torch.tensor(values, dtype=torch.float64)


def total_of(tensors):
    """The sum over all tensors, accumulated in float64."""
    return sum(float(tensor.sum(dtype=torch.float64)) for tensor in tensors)


# --- against other solvers --------------------------------------------------------------------------


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
    """The search ends at the exact breakpoint solution, in float64."""
    (found,) = project([double(x)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)


def by_active_sets(x, k):
    """The nearest feasible point among the minimizers of all faces: each entry at 0, at 1 or free, K spent or not.

    The solution of the quadratic program is one of them, whatever form it has.
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
    """Up to six entries, no assignment of active constraints gives a nearer feasible point."""
    (found,) = project([double(x)], k)
    np.testing.assert_allclose(found.numpy(), by_active_sets(x, k), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_projection_solves_the_quadratic_program_of_scipy(seed):
    """At twelve entries a general solver of min ||s - x||^2 under the constraints ends at the same point."""
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
    """P = clip(x - v, 0, 1) with one v >= 0 for all entries, and v is 0 unless the budget is spent."""
    scores = double(x)
    v = shift([scores], k)
    (found,) = project([scores], k)
    assert v >= 0
    assert torch.equal(found, clipped(scores, v))
    assert v == 0 or k - float(found.sum()) <= 1e-6 * k + 1e-12


# --- its properties ---------------------------------------------------------------------------------


@FEW
@given(SCORES, BUDGETS)
def test_projection_is_feasible(x, k):
    """P(x) lies in [0,1]^n and its float64 sum is at most K, without any tolerance; K is met where it can be."""
    scores = double(x)
    (found,) = project([scores], k)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    possible = float(scores.clamp(0, 1).sum())
    assert min(k, possible) * (1 - 1e-6) - 1e-12 <= float(found.sum()) <= k


@FEW
@given(SCORES, st.floats(0, 5))
def test_projection_of_a_feasible_point_only_clips(x, slack):
    """With K at or above the clipped sum v is 0 and P(x) = clip(x, 0, 1) bit for bit; projecting again is nothing."""
    scores = double(x)
    clip = scores.clamp(0, 1)
    k = float(clip.sum()) + slack
    assert shift([scores], k) == 0
    assert torch.equal(project([scores], k)[0], clip)
    assert torch.equal(project([clip], k)[0], clip)


@FEW
@given(SCORES, BUDGETS)
def test_projection_is_idempotent(x, k):
    """P(P(x)) = P(x): bit for bit in float64, to a rounding in float32."""
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-6)):
        (once,) = project([double(x).to(dtype)], k)
        (twice,) = project([once], k)
        torch.testing.assert_close(twice, once, rtol=0, atol=tolerance)


@FEW
@given(SCORES, BUDGETS, st.randoms(use_true_random=False))
def test_projection_follows_a_permutation(x, k, random):
    """P(permuted x) is the permuted P(x)."""
    order = list(range(len(x)))
    random.shuffle(order)
    (plain,), (permuted,) = project([double(x)], k), project([double(x)[order]], k)
    torch.testing.assert_close(permuted, plain[order], rtol=0, atol=1e-9)


@FEW
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.lists(st.floats(0, 0.5), min_size=40, max_size=40),
    st.floats(0.01, 40),
    st.floats(0, 5),
)
def test_the_shift_falls_with_the_budget_and_rises_with_the_scores(x, more, k, extra):
    """A larger K needs a smaller v, larger scores a larger one (in [0, 1] at first, where v is unique)."""
    scores = double(x)
    v = shift([scores], k)
    assert shift([scores], k + extra) <= v + 1e-9
    assert shift([scores + double(more[: len(x)])], k) >= v - 1e-9


@FEW
@given(SCORES, SCORES, BUDGETS)
def test_projection_does_not_expand_and_keeps_order(x, y, k):
    """||P(x) - P(y)|| <= ||x - y||, and x_i >= x_j implies P_i >= P_j."""
    n = min(len(x), len(y))
    a, b = double(x[:n]), double(y[:n])
    (pa,), (pb,) = project([a], k), project([b], k)
    assert float((pa - pb).norm()) <= float((a - b).norm()) + 1e-9
    assert torch.equal(pa[a.argsort(stable=True)], pa.sort().values)


@FEW
@given(SCORES, BUDGETS, st.integers(0, 40))
def test_projection_of_layers_is_the_projection_of_their_concatenation(x, k, cut):
    """One budget for all layers: splitting the scores into layers changes nothing."""
    whole = double(x)
    parts = [part for part in (whole[:cut], whole[cut:]) if part.numel()]
    torch.testing.assert_close(torch.cat(project(parts, k)), project([whole], k)[0], rtol=0, atol=1e-9)


def test_projection_sees_through_shapes_and_strides():
    """Channels-last, transposed and sliced layers are projected as their flat copies, and keep shape and values."""
    image, matrix, wide = (torch.rand(shape, generator=generator(4)) for shape in ((4, 3, 2, 2), (5, 7), (8, 6)))
    strided = [image.to(memory_format=torch.channels_last), matrix.t(), wide[::2]]
    before = [layer.clone() for layer in strided]
    found, flat = project(strided, 20.0), project([layer.flatten() for layer in strided], 20.0)
    assert all(torch.equal(a, b.reshape(a.shape)) for a, b in zip(found, flat, strict=True))
    assert all(torch.equal(layer, copy) for layer, copy in zip(strided, before, strict=True))


@FEW
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), BUDGETS)
def test_projection_is_feasible_however_far_the_scores(x, k):
    """Scores no search produces still end in the feasible set, and the search ends."""
    (found,) = project([double(x)], k)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float(found.sum()) <= k


# --- precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_float32_and_float64_agree(share):
    """The same scores in single and double precision are projected to the same point, to single precision."""
    scores = torch.rand(20_000, generator=generator(1)) * 1.2
    (single,), (exact,) = project([scores], 20_000 * share), project([scores.double()], 20_000 * share)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-6)


def test_autocast_does_not_reach_the_projection():
    """Under bfloat16 autocast every bit is that of float32."""
    scores = [torch.rand(3000, generator=generator(i)) for i in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = project(scores, 700.0)
    assert all(torch.equal(a, b) for a, b in zip(mixed, project(scores, 700.0), strict=True))


@FEW
@given(st.integers(0, 10**6), st.integers(1, 70_000), st.floats(0, 1))
def test_a_budget_within_rounding_of_the_sum_is_not_exceeded(seed, n, place):
    """Between the float32 and the float64 sum of the scores, K still bounds the float64 sum of the result."""
    scores = torch.rand(n, generator=generator(seed))
    rounded, exact = float(scores.sum()), float(scores.sum(dtype=torch.float64))
    k = rounded + place * (exact - rounded)
    assert total_of(project([scores], k)) <= k


def test_sums_are_accumulated_beyond_float32():
    """A thousand small layers after a large one vanish from a float32 running sum, which would accept 3 too many."""
    scores = [torch.ones(65_536), *[torch.full((1,), 0.003)] * 1024]
    k = 65_537.0
    running = torch.zeros(())
    for score in scores:
        running = running + score.sum()
    assert float(running) <= k < k + 2 < total_of(scores)
    assert k * (1 - 1e-6) <= total_of(project(scores, k)) <= k


def test_projection_of_25_million_float32_entries():
    """At 25 million entries the float64 sum hits K to 1e-6 of it and does not exceed it."""
    scores = [torch.rand(5_000_000, generator=generator(i)) for i in range(5)]
    k = 2_500_000.0
    assert k * (1 - 1e-6) <= total_of(project(scores, k)) <= k


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


# --- what it costs ------------------------------------------------------------------------------------

PASSES = {
    "uniform": lambda n, random: torch.rand(n, generator=random),
    "one step after all were 1": lambda n, random: 1 + 6e-3 * torch.randn(n, generator=random).sign(),
    "decided but for noise": lambda n, random: (torch.rand(n, generator=random) < 0.1).float() + 2e-3 * torch.randn(n),
    "few near 1": lambda n, random: torch.rand(n, generator=random).pow(9) + 6e-3 * torch.randn(n, generator=random),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_a_projection_takes_a_third_of_the_passes_of_a_bisection(monkeypatch, name, share):
    """Two million scores are summed at most 7 times, where the official loop sums them 21 times."""
    scores = list(PASSES[name](2_000_000, generator(3)).split(300_000))
    passes, summed = 0, projection._clipped_sum

    def counted(pieces, v, *, exact):
        nonlocal passes
        passes += sum(piece.numel() for piece in pieces) == 2_000_000
        return summed(pieces, v, exact=exact)

    monkeypatch.setattr(projection, "_clipped_sum", counted)
    shift(scores, 2_000_000 * share)
    assert 1 <= passes <= 7


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
def test_what_an_accelerator_does_ends_at_the_same_point(name, share):
    """Its fixed number of steps, without a look at any number, finds the shift to 1e-6 and does not exceed K."""
    scores, k = [PASSES[name](100_000, generator(5))], 100_000 * share
    blind = projection._find_root(projection._as_vectors(scores), k, may_sync=False)
    assert abs(float(blind - shift(scores, k))) <= 1e-6
    assert total_of([clipped(scores[0], blind)]) <= k


def test_an_accelerator_is_never_waited_for():
    """Its path runs on tensors without values: nothing on it depends on what a number is."""
    with FakeTensorMode():
        scores = [torch.empty(300, 300), torch.empty(1000)]
        v = projection._find_root(projection._as_vectors(scores), 4000.0, may_sync=False)
        assert clipped(scores[0], v).shape == (300, 300)
        with pytest.raises(DataDependentOutputException):
            projection._find_root(projection._as_vectors(scores), 4000.0, may_sync=True)


# --- edges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [[0.5] * 7, [2.0] * 7, [-1.0] * 7, [1.0], [0.3], [1.7], [-0.2]])
@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 3.0, 3.7, 7.0, 9.0])
def test_projection_edge_cases(x, k):
    """Equal scores, all above 1, all below 0, one entry; K of 0, fractional, n and above n."""
    (found,) = project([double(x)], k)
    np.testing.assert_allclose(found.numpy(), by_sorting(x, k), atol=1e-9)
    assert float(found.sum()) <= k


def test_a_budget_of_nothing_and_of_everything():
    """K = 0 gives exact zeros; K = n and above clips only."""
    scores = double([-1.0, 0.2, 0.7, 1.5])
    assert not project([scores], 0.0)[0].any()
    for k in (4.0, 5.0):
        assert project([scores], k)[0].tolist() == [0.0, 0.2, 0.7, 1.0]


def test_projection_refuses_a_negative_budget():
    """A negative budget has no feasible point and is refused."""
    with pytest.raises(ValueError, match="0 or more"):
        shift([torch.ones(3)], -1.0)


@pytest.mark.gpu
def test_projection_on_a_gpu_is_that_of_the_cpu():
    """Both devices find the same point, to single precision, and stay within the budget."""
    scores = [torch.rand(shape, generator=generator(i)) for i, shape in enumerate([(64, 32, 3, 3), (1000, 500)])]
    there = [found.cpu() for found in project([score.cuda() for score in scores], 50_000.0)]
    for found, expected in zip(there, project(scores, 50_000.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert total_of(there) <= 50_000 * (1 + 1e-12)  # accumulated in another order
