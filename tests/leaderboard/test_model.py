"""Tests the derived properties of a row."""

from __future__ import annotations

import pytest

from fake_records import record
from leaderboard_cases import only_board, row_of


@pytest.mark.parametrize(("seeds", "label"), [(1, "single"), (2, "provisional"), (5, "provisional"), (6, "official")])
def test_the_label_follows_the_number_of_seeds(seeds, label):
    """Only finished runs count."""
    made = [record(seed=seed) for seed in range(seeds)] + [record(seed=9, status="oom")]
    row = row_of(only_board(*made), "probmask")
    assert (row.n, row.seeds, row.label) == (seeds, tuple(range(seeds)), label)


def test_a_row_off_target_has_its_measured_sparsity_as_operating_point():
    """The target would claim a sparsity that was not reached."""
    changes = {"method__traits__hits_target": False, "sparsity__target": 0.95}
    (row,) = only_board(record("str", 0.9, **changes)).rows
    assert (row.target, row.off_target) == (0.95, True)
    assert row.point == row.measured == pytest.approx(0.9)


def test_rows_are_paired_by_common_seeds_with_equal_starts():
    """Seed 0 exists only in one row, and seed 2 started from other weights."""
    mine = [record("a", seed=seed, top1=0.8) for seed in (0, 1)]
    mine += [record("a", seed=2, top1=0.8, model__initial_sha256="f" * 64)]
    board = only_board(*mine, *(record("b", seed=seed, top1=0.7) for seed in (1, 2, 3)))
    assert row_of(board, "a").pairs(row_of(board, "b")) == ({1: 0.8}, {1: 0.7})


def test_identity_ignores_the_sparsity_and_the_order_of_options():
    """Rows of one method at several sparsities have the same identity; other options have another."""
    made = [record("a", 0.5, method__options={"x": 1, "y": 2}), record("a", 0.9, method__options={"y": 2, "x": 1})]
    made += [record("a", 0.9, method__options={"x": 1, "y": 3})]
    assert len({row.identity for row in only_board(*made).rows}) == 2
