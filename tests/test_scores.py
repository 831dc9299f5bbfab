"""Arithmetic for pruners: the rounding of budgets, exact top-k, ramps, and selection."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pruneboard import scores
from pruneboard.api import Layer, Mask
from pruneboard.scores import (
    budget,
    cubic,
    erk,
    importance,
    kept_of,
    lamp,
    select,
    still_kept,
    top_k,
    top_k_per_layer,
    uniform,
)
from score_cases import FEW, random_tensors

TIED = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4)


def layers_of(*keeps) -> list[Layer[Mask]]:
    """Return layers with these numbers of positions to keep."""
    weight = nn.Parameter(torch.ones(9))
    return [Layer(i, f"layer{i}", weight, Mask(weight), keep) for i, keep in enumerate(keeps)]


def ranking(values) -> list[tuple[int, int]]:
    """Return (layer, position) of every value, best first, by a plain sort on (-value, layer, position)."""
    places = [(-value, i, j) for i, row in enumerate(values) for j, value in enumerate(row)]
    return [(i, j) for _, i, j in sorted(places)]


@given(st.integers(0, 10**8), st.floats(0, 1, exclude_max=True))
@FEW
def test_the_number_kept_is_the_nearest_to_the_exact_one(n, sparsity):
    """The count n - round(s n) differs by at most half a weight from n (1 - s) in exact fractions, and is in [0, n]."""
    exact = n - Fraction(sparsity) * n
    # s n is one floating-point product, so a tie may be seen one rounding to its side
    assert abs(kept_of(n, sparsity) - exact) <= Fraction(1, 2) + Fraction(n, 2**53)
    assert 0 <= kept_of(n, sparsity) <= n


@given(st.integers(1, 10**6), st.integers(0, 10**6))
@FEW
def test_a_sparsity_that_is_a_count_is_exact(n, zeros):
    """If s n is a whole number, as for the sparsity in a record, exactly that many weights are pruned."""
    assume(zeros < n)
    assert kept_of(n, zeros / n) == n - zeros


def test_sparsity_zero_keeps_everything():
    """There is no off-by-one error at sparsity 0."""
    assert [kept_of(n, 0.0) for n in (0, 1, 270_896)] == [0, 1, 270_896]


def test_the_paper_network_at_its_sparsities():
    """resnet20_cifar has 270,896 prunable weights; a hundredth of them is 2,709."""
    assert [kept_of(270_896, s) for s in (0.5, 0.9, 0.99, 0.999)] == [135_448, 27_090, 2_709, 271]


def test_the_budget_is_the_sum_over_layers():
    """The budget is the sum of the layers' shares, some of which may be 0."""
    assert budget(layers_of(4, 0, 3)) == 7


def test_layers_without_budget_are_refused():
    """If the sparsity emerges, there is no budget to return."""
    with pytest.raises(ValueError, match="have no budget"):
        budget(layers_of(4, None))


@given(TIED)
@FEW
def test_top_k_is_the_plain_ranking_for_every_k(values):
    """For every k, with many ties, the kept positions are the first k of a sort by (value, layer, position)."""
    order = ranking(values)
    tensors = [torch.tensor(row, dtype=torch.float32) for row in values]
    for k in range(len(order) + 1):
        masks = top_k(tensors, k)
        kept = {(i, j) for i, mask in enumerate(masks) for j in mask.nonzero().flatten().tolist()}
        assert kept == set(order[:k])


@given(TIED)
@FEW
def test_sorting_and_partition_select_the_same_positions(values):
    """The selection for accelerators keeps the same positions as the one for CPUs, with many ties."""
    flat = torch.tensor([value for row in values for value in row], dtype=torch.float32)
    for k in range(len(flat) + 1):
        assert torch.equal(scores._by_sorting(flat, k), scores._by_partition(flat, k))


def test_sorting_does_not_synchronize_with_an_accelerator():
    """The selection runs on tensors without values: nothing depends on the value of a score."""
    with FakeTensorMode():
        assert scores._by_sorting(torch.empty(100), 7).shape == (100,)
        with pytest.raises(DataDependentOutputException):
            top_k([torch.empty(100)], 7)


@pytest.mark.parametrize("value", [0.0, -1.5, 3e38])
def test_all_equal_scores_keep_the_first_positions(value):
    """If all scores are equal, exactly the first k positions are kept."""
    for k in range(13):
        first, second = top_k([torch.full((2, 3), value), torch.full((6,), value)], k)
        assert torch.cat([first.flatten(), second]).tolist() == [True] * k + [False] * (12 - k)


@given(st.integers(0, 2**31), st.integers(1, 3))
@FEW
def test_a_smaller_budget_keeps_a_subset(seed, levels):
    """Masks of growing k are nested, even with ties."""
    tensors = [t.mul(levels).round() for t in random_tensors((3, 4), (5,), seed=seed)]
    masks = [torch.cat([m.flatten() for m in top_k(tensors, k)]) for k in range(18)]
    assert all(bool((small <= large).all()) for small, large in itertools.pairwise(masks))
    assert [int(m.sum()) for m in masks] == list(range(18))


@given(st.integers(0, 2**31), st.integers(0, 60))
@FEW
def test_strides_do_not_matter(seed, k):
    """Channels-last, transposed and sliced scores give the masks of their contiguous copies."""
    image, matrix, wide = random_tensors((2, 3, 2, 2), (4, 5), (8, 4), seed=seed)
    strided = [image.round().to(memory_format=torch.channels_last), matrix.round().t(), wide.round()[::2]]
    for got, expected in zip(top_k(strided, k), top_k([t.contiguous() for t in strided], k), strict=True):
        assert torch.equal(got, expected)


def test_a_mask_has_the_shape_of_its_scores():
    """A mask marks positions of its own score tensor, in row-major order as the flat scores."""
    tensors = random_tensors((2, 3, 2, 2), (4, 5))
    shaped, flat = top_k(tensors, 17), top_k([t.flatten() for t in tensors], 17)
    assert all(torch.equal(a.flatten(), b) for a, b in zip(shaped, flat, strict=True))


@given(st.permutations(range(4)), st.integers(0, 36))
@FEW
def test_the_order_of_layers_does_not_matter_without_ties(order, k):
    """Each layer's mask is the same in any order of the layers."""
    tensors = random_tensors((3, 3), (9,), (1, 9), (9, 1))
    plain, permuted = top_k(tensors, k), top_k([tensors[i] for i in order], k)
    assert all(torch.equal(permuted[place], plain[i]) for place, i in enumerate(order))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error(bad):
    """A single NaN or infinity is an error and never gives a mask."""
    with pytest.raises(ValueError, match="finite"):
        top_k([torch.zeros(2), torch.tensor([1.0, bad])], 1)


@pytest.mark.parametrize("k", [-1, 4])
def test_an_impossible_budget_is_an_error(k):
    """The message names both numbers."""
    with pytest.raises(ValueError, match=f"cannot keep {k} of 3"):
        top_k([torch.zeros(3)], k)


def test_scores_are_not_changed_and_masks_have_no_gradient():
    """Masks are detached from the graph, and the scores stay as they were."""
    score = nn.Parameter(random_tensors((4, 4))[0])
    before = score.detach().clone()
    (mask,) = top_k([score], 5)
    assert torch.equal(score, before)
    assert (mask.dtype, mask.requires_grad, mask.shape) == (torch.bool, False, score.shape)


def test_top_k_per_layer_keeps_the_number_of_each_layer():
    """Every layer keeps its own k, whatever the other scores are."""
    tensors = random_tensors((3, 3), (4,))
    masks = top_k_per_layer([tensors[0] + 100, tensors[1]], [2, 4])
    assert [int(m.sum()) for m in masks] == [2, 4]
    assert torch.equal(masks[0], top_k([tensors[0]], 2)[0])


@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
@FEW
def test_added_scores_have_equal_weight(seed, scale):
    """Each list is divided by its total first, so the scale of a list does not change the sum."""
    one, other = ([t.double().abs() for t in random_tensors((3, 4), (5,), seed=seed + i)] for i in range(2))
    found = scores.added([one, [t * scale for t in other]])
    for a, b, total in zip(one, other, found, strict=True):
        expected = a / sum(t.sum() for t in one) + b / sum(t.sum() for t in other)
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)


def test_a_list_of_zeros_adds_nothing_and_a_single_list_is_unchanged():
    """Scores that are all 0 have no total to divide by."""
    one, zeros = [torch.tensor([1.0, 3.0])], [torch.zeros(2)]
    assert scores.added([one])[0] is one[0]
    assert scores.added([zeros, one])[0].tolist() == [0.25, 0.75]
    assert scores.added([zeros, zeros])[0].tolist() == [0.0, 0.0]


def test_masks_are_written_to_their_layers():
    """`set_masks` sets the gates in order, in the weight's dtype."""
    layers = layers_of(9, 9)
    first, second = torch.arange(9) < 4, torch.arange(9) > 6
    scores.set_masks(layers, [first, second])
    assert [layer.gate.keep.tolist() for layer in layers] == [first.float().tolist(), second.float().tolist()]


@st.composite
def ramps(draw):
    """Draw start < end in [0, 1] and two values."""
    start, end = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    assume(end - start > 1e-6)
    first, last = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    return start, end, first, last


@given(ramps(), st.lists(st.floats(0, 1), min_size=2, max_size=12))
@FEW
def test_the_ramp_is_monotone_and_stays_between_its_ends(ramp, fractions):
    """From `first` to `last` it moves in one direction only."""
    start, end, first, last = ramp
    values = [cubic(f, start, end, first, last) for f in sorted(fractions)]
    sign = 1 if last >= first else -1
    assert all(sign * (b - a) >= -1e-15 for a, b in itertools.pairwise(values))
    assert all(min(first, last) - 1e-15 <= value <= max(first, last) + 1e-15 for value in values)


@given(ramps(), st.floats(0, 1))
@FEW
def test_the_ends_of_the_ramp_are_exact(ramp, beyond):
    """Until `start` it is `first`, and from `end` on it is `last`, to the last bit."""
    start, end, first, last = ramp
    assert cubic(start, start, end, first, last) == cubic(start * beyond, start, end, first, last) == first
    assert cubic(end, start, end, first, last) == cubic(end + beyond, start, end, first, last) == last


def test_an_eighth_is_left_in_the_middle_of_the_ramp():
    """Halfway, an eighth of the difference is left."""
    assert cubic(0.5, 0.0, 1.0, 0.0, 0.8) == pytest.approx(0.8 * (1 - 1 / 8))
    assert cubic(0.3, 0.2, 0.4, 1.0, 0.0) == pytest.approx(1 / 8)


def test_a_ramp_of_no_length_is_a_step():
    """If start and end are equal, the value jumps there."""
    assert [cubic(f, 0.5, 0.5, 1.0, 0.0) for f in (0.4, 0.5, 0.6)] == [1.0, 0.0, 0.0]


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3, unique=True))
@FEW
def test_the_ramp_of_fractions_is_exact(steps):
    """For `Fraction` arguments it is the cube of the remaining share, without rounding."""
    start, step, end = sorted(steps)
    share = cubic(Fraction(step), Fraction(start), Fraction(end), Fraction(1), Fraction(0))
    assert share == Fraction(end - step) ** 3 / Fraction(end - start) ** 3


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.fractions(0, 1), st.fractions(0, 1))
@FEW
def test_the_count_on_the_way_is_exact_and_monotone(k, rest, less, more):
    """From k to n in whole positions, the count is exactly k + floor(share (n - k)), however large n is."""
    less, more = sorted((less, more))
    n = k + rest
    assert (still_kept(k, n, 0), still_kept(k, n, 1)) == (k, n)
    assert still_kept(k, n, less) <= still_kept(k, n, more)
    assert still_kept(k, n, less) == k + rest * less.numerator // less.denominator


@pytest.mark.parametrize("left", range(19))
def test_whole_numbers_on_the_way_lose_nothing_to_rounding(left):
    """If (left / 18)^3 of a layer is a whole number of weights, exactly that many are kept."""
    share, sizes = Fraction(left, 18) ** 3, [18**3 * m for m in range(1, 200)]
    assert [still_kept(0, n, share) for n in sizes] == [left**3 * m for m in range(1, 200)]


def selection(allocation, share=0):
    """Return masks of three layers of different scales, and their budgets per layer."""
    shapes = [(4, 3, 2, 2), (30, 10), (6, 20)]
    sizes = [math.prod(shape) for shape in shapes]
    weights = [t * scale for t, scale in zip(random_tensors(*shapes), (1.0, 0.1, 3.0), strict=True)]
    keep = uniform(sizes, 60)
    layers = [Layer(i, "", nn.Parameter(w), Mask(w), n) for i, (w, n) in enumerate(zip(weights, keep, strict=True))]
    scores = importance(weights, allocation)
    return select(layers, scores, allocation, share), scores, {"uniform": keep, "erk": erk(shapes, 60)}.get(allocation)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk", "lamp"])
@pytest.mark.parametrize("share", [0, 0.3, Fraction(1, 3), 1.0])
def test_selection_is_the_top_k_of_its_allocation(allocation, share):
    """Each layer, or the whole network, keeps its highest scores; their number grows with `share` to all of them."""
    masks, scores, keep = selection(allocation, share)
    sizes = [score.numel() for score in scores]
    if keep is None:
        expected = top_k(scores, still_kept(60, sum(sizes), share))
    else:
        expected = top_k_per_layer(scores, [still_kept(k, n, share) for k, n in zip(keep, sizes, strict=True)])
    assert all(torch.equal(mask, best) for mask, best in zip(masks, expected, strict=True))
    assert share != 0 or sum(int(mask.sum()) for mask in masks) == 60
    assert share != 1 or all(bool(mask.all()) for mask in masks)


def test_importance_is_magnitude_or_lamp():
    """Scores are |w|, or LAMP scores for `lamp`; none is negative or has a gradient."""
    weights = [nn.Parameter(t) for t in random_tensors((3, 4), (5,))]
    for allocation in ("uniform", "global", "erk"):
        assert all(torch.equal(s, w.abs()) for s, w in zip(importance(weights, allocation), weights, strict=True))
    assert all(torch.equal(s, t) for s, t in zip(importance(weights, "lamp"), lamp(weights), strict=True))
    assert not any(s.requires_grad or bool((s < 0).any()) for a in ("global", "lamp") for s in importance(weights, a))


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk", "lamp"])
def test_selection_without_a_budget_is_refused(allocation):
    """If the sparsity emerges, nothing can be selected."""
    with pytest.raises(ValueError, match="have no budget"):
        select(layers_of(None), [torch.ones(9)], allocation)
