"""GMP's schedule: the papers' formula, and official schedules that miss their target."""

from __future__ import annotations

import itertools

import pytest
from gmp_cases import ALLOCATIONS, SHAPES, SIZES, TOTAL, UPDATES, WINDOW, at, counts, drive, layers_of
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pruneboard.scores import budget, erk, kept_of, still_kept, uniform
from pruneboard_gmp import GMP


@st.composite
def windows(draw):
    """Options of a schedule, extreme ones included."""
    begin, end = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    return {"begin": begin, "end": end, "interval": draw(st.floats(0, 1, exclude_min=True))}


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.99),
    window=windows(),
    total=st.integers(1, 40),
    allocation=st.sampled_from(ALLOCATIONS),
    keep_pruned=st.booleans(),
)
@example(sizes=[50, 7], sparsity=0.9, window=WINDOW, total=TOTAL, allocation="uniform", keep_pruned=False)
@settings(deadline=None, max_examples=80)
def test_sparsity_rises_monotonically_to_exactly_the_budget(sizes, sparsity, window, total, allocation, keep_pruned):
    """All is kept until `begin`, then the count only falls, and hardening leaves exactly k for any interval."""
    assume(kept_of(sum(sizes), sparsity) > 0)
    pruner = GMP(sparsity=sparsity, allocation=allocation, keep_pruned=keep_pruned, **window)
    layers = layers_of(pruner, sizes)
    begin = round(pruner.begin * total)
    kept = {step: sum(counts(masks)) for step, masks in drive(pruner, layers, total)}
    harden = max(kept)
    assert all(kept[step] == sum(sizes) for step in kept if step <= begin and step < harden)
    assert all(late <= early for early, late in itertools.pairwise(kept.values()))
    assert kept[harden] == budget(layers) == kept_of(sum(sizes), sparsity)


@given(
    n=st.integers(1, 10**9),
    sparsity=st.floats(0, 1, exclude_max=True),
    window=windows(),
    total=st.integers(1, 10**6),
    steps=st.lists(st.integers(0, 10**6), min_size=2, max_size=8),
)
@settings(deadline=None, max_examples=200)
def test_counts_of_the_schedule_are_monotone_at_any_size(n, sparsity, window, total, steps):
    """For up to a billion weights the scheduled count never rises; it is n at `begin` and k at the end."""
    pruner, k = GMP(sparsity=sparsity, **window), kept_of(n, sparsity)
    harden = at(pruner, 0, total).harden_step
    found = [still_kept(k, n, pruner.surplus_share(at(pruner, step, total))) for step in sorted(steps)]
    assert all(k <= late <= early <= n for early, late in itertools.pairwise(found))
    assert still_kept(k, n, pruner.surplus_share(at(pruner, harden, total))) == k
    begin = round(pruner.begin * total)
    assert begin == harden or still_kept(k, n, pruner.surplus_share(at(pruner, begin, total))) == n


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_every_update_follows_the_papers_formula(allocation):
    """s_t = s_f (1 - (1 - (t - t0) / (t1 - t0))^3) holds per layer where layers have counts, else over all together."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    layers, k = layers_of(pruner), kept_of(sum(SIZES), 0.9)
    final = {"uniform": uniform(SIZES, k), "erk": erk(SHAPES, k)}.get(allocation)
    for step, masks in drive(pruner, layers):
        if step not in UPDATES:
            continue
        found, sizes, ends = counts(masks), SIZES, final
        if final is None:
            found, sizes, ends = [sum(found)], [sum(SIZES)], [k]
        for kept, n, end in zip(found, sizes, ends, strict=True):
            zeros = (n - end) * (1 - (1 - (step - 8) / 18) ** 3)
            assert zeros - 1e-9 <= n - kept < zeros + 1


def test_the_defaults_are_the_published_cell():
    """In Gale et al.'s 128,000 steps the defaults update from 40,000 to 76,000, every 2,000."""
    pruner = GMP(sparsity=0.9)
    due = [step for step in range(0, 128_001, 500) if pruner.is_update_step(at(pruner, step, 128_000))]
    assert due == list(range(40_000, 76_001, 2_000))
    assert pruner.allocation == "uniform"


@pytest.mark.parametrize(
    ("window", "total", "expected"),
    [
        ({"begin": 0.2, "end": 0.9, "interval": 0.45}, 8, [2, 6, 7]),  # 1.6, 7.2 and 3.6 steps
        ({"begin": 0.0, "end": 1.0, "interval": 1.0}, 8, [0, 8]),
        ({"begin": 0.5, "end": 0.8, "interval": 0.01}, 10, [5, 6, 7, 8]),
        ({"begin": 0.5, "end": 0.51, "interval": 0.5}, 10, [5]),
    ],
)
def test_times_are_rounded_to_steps(window, total, expected):
    """Begin, end and interval round to the nearest step, the interval is at least one, and the end is an update."""
    pruner = GMP(sparsity=0.9, **window)
    assert [step for step in range(total + 1) if pruner.is_update_step(at(pruner, step, total))] == expected


@pytest.mark.parametrize(
    ("begin", "end", "every", "reached"), [(12_500, 36_000, 2_000, 0.99974), (8_000, 68_000, 8_000, 0.99970)]
)
def test_the_target_is_met_where_tensorflows_schedule_misses_it(begin, end, every, reached):
    """If the interval does not divide the window, TensorFlow's last update is early; ours adds one at the end."""
    total = 128_000
    pruner = GMP(sparsity=0.9, begin=begin / total, end=end / total, interval=every / total)
    last = begin + (end - begin) // every * every
    official = 1 - (1 - (last - begin) / (end - begin)) ** 3
    assert official == pytest.approx(reached, abs=5e-6)
    assert float(1 - pruner.surplus_share(at(pruner, last, total))) == pytest.approx(official, rel=1e-12)
    n, k = 25_500_000, 2_550_000
    assert still_kept(k, n, pruner.surplus_share(at(pruner, last, total))) > k + 5_000
    assert [step for step in range(last, total + 1, 500) if pruner.is_update_step(at(pruner, step, total))] == [
        last,
        end,
    ]
    assert still_kept(k, n, pruner.surplus_share(at(pruner, end, total))) == k


def test_the_target_is_met_where_strs_gmp_misses_it():
    """STR's GMP, epochs 20 to 79 of 100, ends at .8999958 for .9, which is 106 of 25.5 million weights short."""
    pruner = GMP(sparsity=0.9, begin=0.2, end=0.8, interval=0.01)
    rate = 0.9 - 0.9 * (1 - (79 - 20) / (79 - 20 + 1)) ** 3
    assert rate == pytest.approx(0.8999958, abs=5e-8)
    n, k = 25_500_000, 2_550_000
    share = pruner.surplus_share(at(pruner, 79, 100))
    assert 0.9 * float(1 - share) == pytest.approx(rate, rel=1e-12)
    assert still_kept(k, n, share) - k == 106
    assert still_kept(k, n, pruner.surplus_share(at(pruner, 80, 100))) == k


def test_diagnostics_are_the_scheduled_sparsity():
    """The diagnostic is s_t: 0 until `begin`, the masks' sparsity at updates, the budget's from the end on."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    layers = layers_of(pruner)
    n, shown = sum(SIZES), {}
    for step, masks in drive(pruner, layers):
        shown[step] = pruner.diagnostics(layers, at(pruner, step))["scheduled_sparsity"]
        if step in UPDATES:
            assert shown[step] == pytest.approx(1 - sum(counts(masks)) / n, abs=len(SIZES) / n)
    assert shown[0] == shown[8] == 0
    after = pruner.diagnostics(layers, at(pruner, TOTAL))["scheduled_sparsity"]
    assert shown[26] == after == 1 - budget(layers) / n
