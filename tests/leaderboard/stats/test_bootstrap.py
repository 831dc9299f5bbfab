"""Tests resampling: against plain enumeration and scipy, and the actual coverage of intervals."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import scipy.stats

from bootstrap_cases import interval, percentile
from project import ROOT
from pruneboard.leaderboard import stats
from pruneboard.leaderboard.stats import bootstrap
from pruneboard.leaderboard.stats.probabilities import MIN_COVERAGE


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_intervals_of_few_seeds_equal_full_enumeration(n):
    """All n**n draws of n seeds, computed one by one, give the same ends."""
    values = np.random.default_rng(n).normal(size=n)
    assert interval(values) == pytest.approx(percentile([sum(draw) / n for draw in product(values, repeat=n)]))


@pytest.mark.parametrize("n", range(2, bootstrap.EXACT_UP_TO + 1))
def test_each_resample_is_enumerated_once(n):
    """There are C(2n - 1, n) different resamples with total weight n**n, at most as many as would be drawn."""
    ((counts, weights),) = bootstrap._resamples(n, 1)
    assert len({tuple(row) for row in counts}) == len(counts) == math.comb(2 * n - 1, n) <= stats.RESAMPLES
    assert weights.sum() == n**n
    assert (counts.sum(axis=1) == n).all()


def test_enumeration_stops_when_drawing_is_cheaper():
    """One more seed would have more different resamples than are drawn."""
    assert math.comb(2 * bootstrap.EXACT_UP_TO + 1, bootstrap.EXACT_UP_TO + 1) > stats.RESAMPLES


@pytest.mark.parametrize("beyond", range(1, 60))
def test_ends_are_exact_percentiles(beyond):
    """Of 40 k equally likely values, the ends are the k-th from both sides, without rounding errors."""
    values = np.arange(40.0 * beyond)
    assert bootstrap.percentile_interval(values, np.ones_like(values)) == (beyond - 1, 39 * beyond)


@pytest.mark.parametrize("n", [6, 7, 10, 25])
def test_larger_samples_agree_with_scipy(n):
    """The ends agree with scipy's percentile bootstrap, which uses other draws, within a tenth of the width."""
    values = np.random.default_rng(n).normal(size=n)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    low, high = interval(values)
    width = high - low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=width / 10)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=width / 10)


def test_draws_are_fixed():
    """Ten seeds are always resampled by the same 2,000 draws, on every machine and with every version of numpy."""
    ((counts, weights),) = bootstrap._resamples(10, 1)
    assert counts[:2].astype(int).tolist() == [[3, 2, 1, 1, 0, 0, 1, 0, 2, 0], [0, 2, 2, 0, 2, 1, 1, 0, 0, 2]]
    assert (len(counts), weights.sum()) == (stats.RESAMPLES, stats.RESAMPLES)


@pytest.mark.parametrize("n", [5, 10])
def test_blocks_contain_the_same_resamples(n, monkeypatch):
    """Resamples are computed in blocks to limit memory; the block size does not change them."""
    whole = np.concatenate([counts for counts, _ in bootstrap._resamples(n, 1)])
    monkeypatch.setattr(bootstrap, "_BLOCK_SIZE", 200)
    blocks = [counts for counts, _ in bootstrap._resamples(n, 1)]
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), whole)


def test_groups_are_resampled_together():
    """Groups with the same seeds get the same draws: negated values have negated means in every resample."""
    values = dict(enumerate(np.random.default_rng(0).normal(size=12)))
    for means, _ in bootstrap.resampled_means([values, {seed: -value for seed, value in values.items()}]):
        assert means[:, 0] == pytest.approx(-means[:, 1])


def test_a_group_without_a_drawn_seed_has_no_mean():
    """Of the 27 draws of seeds 0, 1 and 2, the 8 without seed 0 give no mean for a group that only has seed 0."""
    ((means, weights),) = bootstrap.resampled_means([{0: 1.0}, {1: 2.0, 2: 4.0}])
    assert weights[np.isnan(means[:, 0])].sum() == 8
    assert weights[np.isnan(means[:, 1])].sum() == 1


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30])
def test_coverage_equals_the_table(n):
    """In a simulation with normal data, the tabulated share of intervals contains the true mean."""
    covered = count_covering(np.random.default_rng(n).normal(size=(2_000, n))) / 2_000
    assert covered == pytest.approx(stats.COVERAGE[n], abs=0.02)


def count_covering(samples):
    """Return how many samples have an interval that contains 0."""
    blocks = list(bootstrap.resampled_means([dict(enumerate(row)) for row in samples.tolist()]))
    means = np.concatenate([block for block, _ in blocks])
    weights = np.concatenate([block for _, block in blocks])
    found = [bootstrap.percentile_interval(column, weights) for column in means.T]
    return sum(low <= 0 <= high for low, high in found)


def test_the_documented_coverage_equals_the_constants():
    """The coverage table in docs/statistics.md contains the values of the code."""
    page = (ROOT / "docs/statistics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (seeds|mean, area|P\(A > B\)) \| (.+) \|$", page, re.MULTILINE))
    ns, means, chances = ([int(cell) for cell in rows[key].split(" | ")] for key in ("seeds", "mean, area", "P(A > B)"))
    assert means == [round(100 * stats.COVERAGE[n]) for n in ns]
    assert chances == [round(100 * stats.PROBABILITY_COVERAGE.get(n, MIN_COVERAGE)) for n in ns]


def test_importing_stats_imports_no_array_library():
    """Importing the package imports neither numpy nor scipy nor torch."""
    code = "import sys, pruneboard.leaderboard.stats; print(sorted({'numpy', 'scipy', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
