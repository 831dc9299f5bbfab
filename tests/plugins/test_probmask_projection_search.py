"""The search for ProbMask's projection at size: precision, number of passes, accelerators, the official bisection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probmask_cases import FEW, generator, official_shift, total_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pruneboard_probmask import projection
from pruneboard_probmask.projection import clipped, project, shift

# Precision


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_float32_and_float64_agree(share):
    """The same scores in float32 and float64 are projected to the same point, to float32 precision."""
    scores = torch.rand(20_000, generator=generator(1)) * 1.2
    (single,), (exact,) = project([scores], 20_000 * share), project([scores.double()], 20_000 * share)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-6)


def test_autocast_does_not_change_the_projection():
    """Under bfloat16 autocast the projection equals that in float32 bit for bit."""
    scores = [torch.rand(3000, generator=generator(i)) for i in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = project(scores, 700.0)
    assert all(torch.equal(a, b) for a, b in zip(mixed, project(scores, 700.0), strict=True))


@FEW
@given(st.integers(0, 10**6), st.integers(1, 70_000), st.floats(0, 1))
def test_a_budget_within_rounding_of_the_sum_is_not_exceeded(seed, n, place):
    """For K between the float32 and the float64 sum of the scores, the float64 sum of the result is at most K."""
    scores = torch.rand(n, generator=generator(seed))
    rounded, exact = float(scores.sum()), float(scores.sum(dtype=torch.float64))
    k = rounded + place * (exact - rounded)
    assert total_of(project([scores], k)) <= k


def test_sums_are_accumulated_in_float64():
    """A float32 running sum loses a thousand small layers after a large one, and would accept a sum 3 above K."""
    scores = [torch.ones(65_536), *[torch.full((1,), 0.003)] * 1024]
    k = 65_537.0
    running = torch.zeros(())
    for score in scores:
        running = running + score.sum()
    assert float(running) <= k < k + 2 < total_of(scores)
    assert k * (1 - 1e-6) <= total_of(project(scores, k)) <= k


def test_projection_of_25_million_float32_entries():
    """At 25 million entries the float64 sum equals K to 1e-6 of it and does not exceed it."""
    scores = [torch.rand(5_000_000, generator=generator(i)) for i in range(5)]
    k = 2_500_000.0
    assert k * (1 - 1e-6) <= total_of(project(scores, k)) <= k


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("seed", range(6))
def test_projection_in_float32_hits_the_budget_step_after_step(seed, share):
    """Over 30 steps of small noise on 50,000 float32 scores, each sum is within 1e-5 of K and never above it.

    Rounding hides the progress of a small Newton step; returning the end of the bracket instead would prune everything.
    """
    scores = torch.full((50_000,), 1.0)
    for step in range(30):
        k = 50_000 * (share + (1 - share) * (1 - step / 30) ** 3)
        scores = scores + 6e-3 * torch.randn(50_000, generator=generator(100 * seed + step)).sign()
        possible = float(scores.clamp(0, 1).sum(dtype=torch.float64))
        (scores,) = project([scores], k)
        total = float(scores.sum(dtype=torch.float64))
        assert min(k, possible) * (1 - 1e-5) <= total <= k


# Cost

PASSES = {
    "uniform": lambda n, random: torch.rand(n, generator=random),
    "one step after all were 1": lambda n, random: 1 + 6e-3 * torch.randn(n, generator=random).sign(),
    "decided but for noise": lambda n, random: (torch.rand(n, generator=random) < 0.1).float() + 2e-3 * torch.randn(n),
    "few near 1": lambda n, random: torch.rand(n, generator=random).pow(9) + 6e-3 * torch.randn(n, generator=random),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_a_projection_takes_fewer_than_half_of_the_passes_of_a_bisection(monkeypatch, name, share):
    """Two million scores are summed at most 8 times; the official loop sums them 21 times."""
    scores = list(PASSES[name](2_000_000, generator(3)).split(300_000))
    passes, clipped_sum = 0, projection._clipped_sum

    def counted(vectors, v, *, exact):
        nonlocal passes
        passes += sum(vector.numel() for vector in vectors) == 2_000_000
        return clipped_sum(vectors, v, exact=exact)

    monkeypatch.setattr(projection, "_clipped_sum", counted)
    shift(scores, 2_000_000 * share)
    assert 1 <= passes <= 8  # sums round by where the tensors lie in memory: 5 to 8 were seen


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
def test_the_accelerators_fixed_steps_find_the_same_shift(name, share):
    """A fixed number of steps that reads no value finds the shift to 1e-6 and does not exceed K."""
    scores, k = [PASSES[name](100_000, generator(5))], 100_000 * share
    blind = projection._find_root(projection._as_vectors(scores), k, may_sync=False)
    assert abs(float(blind - shift(scores, k))) <= 1e-6
    assert total_of([clipped(scores[0], blind)]) <= k


def test_an_accelerator_is_never_synchronized():
    """The accelerator's code path runs on tensors without values, so nothing in it depends on a value."""
    with FakeTensorMode():
        scores = [torch.empty(300, 300), torch.empty(1000)]
        v = projection._find_root(projection._as_vectors(scores), 4000.0, may_sync=False)
        assert clipped(scores[0], v).shape == (300, 300)
        with pytest.raises(DataDependentOutputException):
            projection._find_root(projection._as_vectors(scores), 4000.0, may_sync=True)


def test_projection_on_a_gpu_equals_that_on_the_cpu(cuda):
    """Both devices find the same point to float32 precision, and stay within the budget."""
    scores = [torch.rand(shape, generator=generator(i)) for i, shape in enumerate([(64, 32, 3, 3), (1000, 500)])]
    there = [found.cpu() for found in project([score.cuda() for score in scores], 50_000.0)]
    for found, expected in zip(there, project(scores, 50_000.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert total_of(there) <= 50_000 * (1 + 1e-12)  # accumulated in another order


# Against the official bisection


@pytest.mark.parametrize("n", [1000, 100_000])
def test_projections_agree_and_only_the_official_one_exceeds_the_budget(n):
    """Both shifts agree to the official tolerance, 2^-21 or 1e-3 of the sum; only the official sums ever exceed K."""
    exceeded = 0
    for seed in range(12):
        scores = [torch.rand(n, generator=generator(2 * seed)), torch.rand(n // 3, generator=generator(2 * seed + 1))]
        k = 0.1 * (seed + 1) / 3 * n
        v, theirs = shift(scores, k), official_shift(scores, k)
        active = total_of([((score > v) & (score < 1 + v)).double() for score in scores])
        assert abs(v - theirs) <= 2.0**-21 + 2e-3 / active
        assert total_of(project(scores, k)) <= k
        exceeded += total_of([(score - theirs).clamp(0, 1) for score in scores]) > k
    assert exceeded > 0


def test_ours_is_nearer_to_the_budget_than_the_official_projection():
    """For a million scores the official sum is less than one weight off K; ours is nearer, and below."""
    scores = [torch.rand(1_000_000, generator=generator(1))]
    k = 300_000.0
    theirs = total_of([(scores[0] - official_shift(scores, k)).clamp(0, 1)]) - k
    ours = total_of(project(scores, k)) - k
    assert abs(theirs) < 1
    assert -abs(theirs) <= ours <= 0
