"""How a budget is divided among layers: rounding, ERK, LAMP."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pruneboard.scores import (
    erk,
    kept_of,
    lamp,
    largest_remainder,
    top_k,
    uniform,
)
from score_cases import FEW, random_tensors

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=8)
SHAPES = st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4), min_size=1, max_size=8)

RESNET20 = [(16, 3, 3, 3), *[(16, 16, 3, 3)] * 6, (32, 16, 3, 3), *[(32, 32, 3, 3)] * 5, (64, 32, 3, 3), (10, 64)]


def check_allocation(keep, sizes, k) -> None:
    """Assert that an allocation sums to k and fits every layer."""
    assert sum(keep) == k
    assert all(0 <= kept <= size for kept, size in zip(keep, sizes, strict=True))


@st.composite
def sized(draw, elements=SIZES):
    """Draw layer sizes and a budget, which is often extreme."""
    sizes = draw(elements)
    total = sum(math.prod(size) if isinstance(size, list) else size for size in sizes)
    return sizes, draw(st.sampled_from(sorted({0, 1, total - 1, total})) | st.integers(0, total))


@given(sized(), st.data())
@FEW
def test_rounding_sums_exactly_whatever_the_shares(case, data):
    """Shares that are far too small or too large are still rounded to a valid allocation of exactly k."""
    sizes, k = case
    share = st.floats(0, 1000) | st.fractions(0, 1000)
    shares = data.draw(st.lists(share, min_size=len(sizes), max_size=len(sizes)))
    check_allocation(largest_remainder(shares, sizes, k), sizes, k)


@given(sized(), st.data())
@FEW
def test_shares_that_sum_to_k_move_by_less_than_one(case, data):
    """Shares that sum to k are rounded up or down, never further (the quota rule of largest remainders)."""
    sizes, k = case
    total = sum(sizes)
    keep = uniform(sizes, k)
    check_allocation(keep, sizes, k)
    assert all(abs(kept - Fraction(k * size, total)) < 1 for kept, size in zip(keep, sizes, strict=True))


def test_the_rest_goes_to_the_largest_fractions():
    """2.5 + 1.25 + 3.25 of 7: the half is rounded up; among equal fractions the earlier layer wins."""
    assert largest_remainder([2.5, 1.25, 3.25], [9, 9, 9], 7) == [3, 1, 3]
    assert largest_remainder([1.5, 1.5], [9, 9], 3) == [2, 1]


@pytest.mark.parametrize("k", [-1, 6])
def test_a_budget_that_does_not_fit_is_refused(k):
    """More positions than there are, or fewer than none, cannot be allocated."""
    for allocate in (lambda: largest_remainder([1, 1], [2, 3], k), lambda: uniform([2, 3], k)):
        with pytest.raises(ValueError, match=f"cannot keep {k} of 5"):
            allocate()


def test_a_negative_share_is_refused():
    """A share is a number of kept positions."""
    with pytest.raises(ValueError, match="0 or more"):
        largest_remainder([-3], [5], 0)


def rigl_densities(shapes, density) -> list[float]:
    """Return ERK densities by the published loop, in floats (google-research/rigl@d39fc7d sparse_utils.py)."""
    dense: set[int] = set()
    while True:
        divisor = rest = 0.0
        raw = {}
        for i, shape in enumerate(shapes):
            n = math.prod(shape)
            if i in dense:
                rest -= n * (1 - density)
                continue
            rest += n * density
            raw[i] = sum(shape) / n
            divisor += raw[i] * n
        eps = rest / divisor if raw else 0.0
        over = [i for i in raw if raw[i] == max(raw.values()) and eps * raw[i] > 1]
        if not over:
            return [1.0 if i in dense else eps * raw[i] for i in range(len(shapes))]
        dense.update(over)


@given(sized(SHAPES))
@FEW
def test_erk_is_the_published_loop_rounded(case):
    """Counts differ by at most one position from the float implementation, are valid, and sum exactly."""
    shapes, k = case
    sizes = [math.prod(shape) for shape in shapes]
    keep = erk(shapes, k)
    check_allocation(keep, sizes, k)
    assume(0 < k < sum(sizes))
    for kept, size, density in zip(keep, sizes, rigl_densities(shapes, k / sum(sizes)), strict=True):
        assert abs(kept - density * size) < 1 + 1e-6


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9, 0.99])
def test_erk_on_the_paper_network(sparsity):
    """For resnet20's shapes the counts follow the published densities, and small layers are denser."""
    sizes = [math.prod(shape) for shape in RESNET20]
    k = kept_of(sum(sizes), sparsity)
    keep = erk(RESNET20, k)
    published = rigl_densities(RESNET20, k / sum(sizes))
    assert sum(keep) == k
    assert all(abs(kept - d * n) < 1 for kept, d, n in zip(keep, published, sizes, strict=True))
    assert keep[0] / sizes[0] >= keep[7] / sizes[7] >= keep[13] / sizes[13]


@given(st.permutations(range(5)), st.integers(0, 2700))
@FEW
def test_erk_does_not_depend_on_the_order_of_layers(order, k):
    """A layer gets the same count in any order (the side sums add to a prime, so no two remainders tie)."""
    shapes = [(4, 3, 3, 3), (8, 4, 3, 3), (16, 8, 3, 3), (32, 16), (10, 212)]
    keep, permuted = erk(shapes, k), erk([shapes[i] for i in order], k)
    assert permuted == [keep[i] for i in order]


def test_erk_caps_small_layers_at_density_one():
    """A tiny layer is kept completely, and the others share the rest by the same rule."""
    shapes = [(2, 2), (100, 100), (50, 150)]
    keep = erk(shapes, 9_000)
    assert keep[0] == 4
    rest = largest_remainder([Fraction(8_996 * 200, 400)] * 2, [10_000, 7_500], 8_996)
    assert keep[1:] == rest


@given(SHAPES)
@FEW
def test_erk_is_exact_at_both_extremes(shapes):
    """A budget of 0 keeps nothing, and the full budget keeps everything."""
    sizes = [math.prod(shape) for shape in shapes]
    assert erk(shapes, 0) == [0] * len(sizes)
    assert erk(shapes, sum(sizes)) == sizes


def test_erk_refuses_more_than_everything():
    """The message names both numbers."""
    with pytest.raises(ValueError, match="cannot keep 7 of 6"):
        erk([(2, 3)], 7)


def brute_lamp(weight) -> torch.Tensor:
    """Return LAMP scores by the definition, one at a time, in float64; of equal weights the earlier ranks higher."""
    squares = [float(w) ** 2 for w in weight.flatten().tolist()]
    found = [w / math.fsum(v for j, v in enumerate(squares) if (v, -j) >= (w, -i)) for i, w in enumerate(squares)]
    return torch.tensor(found, dtype=torch.float64).reshape(weight.shape)


@given(st.integers(0, 2**31))
@example(39342)  # two weights of one layer are equal
@FEW
def test_lamp_is_its_definition(seed):
    """Scores equal w^2 over the sum of all squares at least as large, weight by weight."""
    weights = random_tensors((3, 2, 3, 3), (7, 5), seed=seed)
    for found, weight in zip(lamp(weights), weights, strict=True):
        assert found.shape == weight.shape
        torch.testing.assert_close(found, brute_lamp(weight), rtol=1e-12, atol=0)


@given(st.integers(0, 2**31), st.floats(1e-12, 1e12))
@FEW
def test_the_largest_weight_of_every_layer_scores_one(seed, scale):
    """The maximum is exactly 1, at the largest magnitude, for any scale of the layer."""
    for weight in random_tensors((5, 4), (3, 1, 3, 3), seed=seed):
        (score,) = lamp([weight * scale])
        assert score.max() == 1.0
        assert score.argmax() == weight.abs().argmax()


@given(st.integers(0, 2**31), st.integers(-30, 30))
@FEW
def test_lamp_does_not_depend_on_the_scale_of_a_layer(seed, power):
    """Multiplying one layer by a power of two changes no bit of its scores."""
    (weight,) = random_tensors((6, 4), seed=seed)
    assert torch.equal(lamp([weight])[0], lamp([weight * 2.0**power])[0])


@given(st.integers(0, 2**31), st.integers(0, 48))
@FEW
def test_within_one_layer_lamp_is_magnitude(seed, k):
    """For a single layer the masks are those of magnitude pruning."""
    (weight,) = random_tensors((6, 8), seed=seed)
    assert torch.equal(top_k(lamp([weight]), k)[0], top_k([weight.abs()], k)[0])


def test_lamp_breaks_ties_and_accepts_zeros():
    """Equal weights are ranked by position as in the paper's sort; a zero scores 0, even in a layer of zeros."""
    (score,) = lamp([torch.tensor([1.0, -1.0, 0.0, 1.0])])
    assert score.tolist() == [1.0, 1 / 2, 0.0, 1 / 3]
    assert lamp([torch.zeros(2, 2)])[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_no_layer_is_lost_under_lamp():
    """With as many positions as layers, each layer keeps its largest weight, even beside one a million times larger."""
    weights = random_tensors((4, 4), (9,), (2, 3))
    weights[1] *= 1e-6
    assert [int(m.sum()) for m in top_k(lamp(weights), 3)] == [1, 1, 1]


def test_lamp_does_not_depend_on_strides():
    """A channels-last weight has the scores of its contiguous copy."""
    (weight,) = random_tensors((4, 3, 2, 2))
    assert torch.equal(lamp([weight.to(memory_format=torch.channels_last)])[0], lamp([weight])[0])
