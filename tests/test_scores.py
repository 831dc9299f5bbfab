"""Shared arithmetic: the board's rounding, exact top-k, the cubic ramp, selection."""

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
    """Return layers that carry these budgets."""
    weight = nn.Parameter(torch.ones(9))
    return [Layer(i, f"layer{i}", weight, Mask(weight), keep) for i, keep in enumerate(keeps)]


def ranking(values) -> list[tuple[int, int]]:
    """Return (layer, position) of every value, best first, by a plain sort on (-value, layer, position)."""
    places = [(-value, i, j) for i, row in enumerate(values) for j, value in enumerate(row)]
    return [(i, j) for _, i, j in sorted(places)]


@given(st.integers(0, 10**8), st.floats(0, 1, exclude_max=True))
@FEW
def test_the_number_kept_is_the_nearest_to_the_exact_one(n, sparsity):
    """The count n - round(s n) is within half a weight of n (1 - s) in exact fractions, and in [0, n]."""
    exact = n - Fraction(sparsity) * n
    # s n is one floating-point product, so a tie may be seen one rounding to its side
    assert abs(kept_of(n, sparsity) - exact) <= Fraction(1, 2) + Fraction(n, 2**53)
    assert 0 <= kept_of(n, sparsity) <= n


@given(st.integers(1, 10**6), st.integers(0, 10**6))
@FEW
def test_a_sparsity_that_is_a_count_is_kept_exactly(n, zeros):
    """Where s n is a whole number, as after reading a record, exactly that many are removed."""
    assume(zeros < n)
    assert kept_of(n, zeros / n) == n - zeros


def test_sparsity_zero_keeps_everything():
    """No off-by-one at the dense end."""
    assert [kept_of(n, 0.0) for n in (0, 1, 270_896)] == [0, 1, 270_896]


def test_the_paper_network_at_its_sparsities():
    """resnet20_cifar has 270,896 prunable weights; a hundredth of them is 2,709."""
    assert [kept_of(270_896, s) for s in (0.5, 0.9, 0.99, 0.999)] == [135_448, 27_090, 2_709, 271]


def test_the_budget_is_the_sum_over_layers():
    """Layers carry shares of one budget, and some may keep nothing."""
    assert budget(layers_of(4, 0, 3)) == 7


def test_layers_without_budget_are_refused():
    """Where sparsity emerges there is no number to return."""
    with pytest.raises(ValueError, match="have no budget"):
        budget(layers_of(4, None))


@given(TIED)
@FEW
def test_top_k_is_the_plain_ranking_for_every_k(values):
    """For every k, with many ties, the kept set is the first k of a sort by (value, layer, position)."""
    order = ranking(values)
    tensors = [torch.tensor(row, dtype=torch.float32) for row in values]
    for k in range(len(order) + 1):
        masks = top_k(tensors, k)
        kept = {(i, j) for i, mask in enumerate(masks) for j in mask.nonzero().flatten().tolist()}
        assert kept == set(order[:k])


@given(TIED)
@FEW
def test_what_an_accelerator_selects_is_what_a_cpu_selects(values):
    """Sorting, which needs no look at a number, keeps the same positions as the partition, with many ties."""
    flat = torch.tensor([value for row in values for value in row], dtype=torch.float32)
    for k in range(len(flat) + 1):
        assert torch.equal(scores._by_sorting(flat, k), scores._by_partition(flat, k))


def test_an_accelerator_is_not_waited_for_where_scores_are_not_checked():
    """The selection runs on tensors without values: nothing depends on what a number is."""
    with FakeTensorMode():
        assert scores._by_sorting(torch.empty(100), 7).shape == (100,)
        with pytest.raises(DataDependentOutputException):
            top_k([torch.empty(100)], 7)


@pytest.mark.parametrize("value", [0.0, -1.5, 3e38])
def test_all_equal_scores_keep_the_first_positions(value):
    """Without any preference, exactly k are kept, from the front."""
    for k in range(13):
        first, second = top_k([torch.full((2, 3), value), torch.full((6,), value)], k)
        assert torch.cat([first.flatten(), second]).tolist() == [True] * k + [False] * (12 - k)


@given(st.integers(0, 2**31), st.integers(1, 3))
@FEW
def test_a_smaller_budget_keeps_a_subset(seed, levels):
    """Masks of growing k are nested, ties included."""
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


def test_positions_are_those_of_the_scores_shape():
    """A mask of any shape marks the places where its own score tensor is high: row-major, as the flat scores."""
    tensors = random_tensors((2, 3, 2, 2), (4, 5))
    shaped, flat = top_k(tensors, 17), top_k([t.flatten() for t in tensors], 17)
    assert all(torch.equal(a.flatten(), b) for a, b in zip(shaped, flat, strict=True))


@given(st.permutations(range(4)), st.integers(0, 36))
@FEW
def test_the_order_of_layers_does_not_matter_without_ties(order, k):
    """Each layer's mask is the same wherever the layer stands."""
    tensors = random_tensors((3, 3), (9,), (1, 9), (9, 1))
    plain, permuted = top_k(tensors, k), top_k([tensors[i] for i in order], k)
    assert all(torch.equal(permuted[place], plain[i]) for place, i in enumerate(order))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    """One NaN or infinity anywhere is an error, never a silent mask."""
    with pytest.raises(ValueError, match="finite"):
        top_k([torch.zeros(2), torch.tensor([1.0, bad])], 1)


@pytest.mark.parametrize("k", [-1, 4])
def test_an_impossible_budget_is_refused(k):
    """The message holds both numbers."""
    with pytest.raises(ValueError, match=f"cannot keep {k} of 3"):
        top_k([torch.zeros(3)], k)


def test_scores_are_not_changed_and_need_no_gradient():
    """Masks are cut from the graph, and the scores stay as they were."""
    score = nn.Parameter(random_tensors((4, 4))[0])
    before = score.detach().clone()
    (mask,) = top_k([score], 5)
    assert torch.equal(score, before)
    assert (mask.dtype, mask.requires_grad, mask.shape) == (torch.bool, False, score.shape)


def test_per_layer_top_k_keeps_each_layers_number():
    """Every layer keeps its own k, whatever the others hold."""
    tensors = random_tensors((3, 3), (4,))
    masks = top_k_per_layer([tensors[0] + 100, tensors[1]], [2, 4])
    assert [int(m.sum()) for m in masks] == [2, 4]
    assert torch.equal(masks[0], top_k([tensors[0]], 2)[0])


def test_masks_are_written_to_their_layers():
    """`set_masks` fills the gates in order, in the weight's dtype."""
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
    """At and before `start` it is `first`, at and after `end` it is `last`, to the last bit."""
    start, end, first, last = ramp
    assert cubic(start, start, end, first, last) == cubic(start * beyond, start, end, first, last) == first
    assert cubic(end, start, end, first, last) == cubic(end + beyond, start, end, first, last) == last


def test_the_ramp_in_its_middle():
    """Halfway, an eighth of the difference is left."""
    assert cubic(0.5, 0.0, 1.0, 0.0, 0.8) == pytest.approx(0.8 * (1 - 1 / 8))
    assert cubic(0.3, 0.2, 0.4, 1.0, 0.0) == pytest.approx(1 / 8)


def test_a_ramp_of_no_length_is_a_step():
    """Where start and end coincide the value jumps there."""
    assert [cubic(f, 0.5, 0.5, 1.0, 0.0) for f in (0.4, 0.5, 0.6)] == [1.0, 0.0, 0.0]


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3, unique=True))
@FEW
def test_the_ramp_of_fractions_is_exact(steps):
    """Of whole steps as `Fraction`s it is the cube of the share left, with no rounding at all."""
    start, step, end = sorted(steps)
    share = cubic(Fraction(step), Fraction(start), Fraction(end), Fraction(1), Fraction(0))
    assert share == Fraction(end - step) ** 3 / Fraction(end - start) ** 3


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.fractions(0, 1), st.fractions(0, 1))
@FEW
def test_kept_on_the_way_is_exact_and_monotone(k, rest, less, more):
    """From k to n in whole positions, k + floor(share (n - k)) to the last one, however large n is."""
    less, more = sorted((less, more))
    n = k + rest
    assert (still_kept(k, n, 0), still_kept(k, n, 1)) == (k, n)
    assert still_kept(k, n, less) <= still_kept(k, n, more)
    assert still_kept(k, n, less) == k + rest * less.numerator // less.denominator


@pytest.mark.parametrize("left", range(19))
def test_whole_numbers_on_the_way_lose_nothing_to_rounding(left):
    """Where (left / 18)^3 of a layer is a whole number of weights, exactly that many are kept."""
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
    """Each layer, or the whole network, keeps the highest of its count, which grows with `share` to everything."""
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
    """Scores are |w|, and under `lamp` the layer-adaptive ones; none is negative or carries a gradient."""
    weights = [nn.Parameter(t) for t in random_tensors((3, 4), (5,))]
    for allocation in ("uniform", "global", "erk"):
        assert all(torch.equal(s, w.abs()) for s, w in zip(importance(weights, allocation), weights, strict=True))
    assert all(torch.equal(s, t) for s, t in zip(importance(weights, "lamp"), lamp(weights), strict=True))
    assert not any(s.requires_grad or bool((s < 0).any()) for a in ("global", "lamp") for s in importance(weights, a))


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk", "lamp"])
def test_selection_without_a_budget_is_refused(allocation):
    """Where sparsity emerges nothing can be selected."""
    with pytest.raises(ValueError, match="have no budget"):
        select(layers_of(None), [torch.ones(9)], allocation)
