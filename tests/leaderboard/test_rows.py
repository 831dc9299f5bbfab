"""Tests the numbers of a row, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from fake_records import record
from leaderboard_cases import only_board, row_of
from pruneboard import leaderboard


def test_a_row_is_the_mean_over_its_seeds():
    """.90, .92, .94 have mean .92 and deviation .02, and t(2) = 4.302653 gives the interval."""
    row = row_of(only_board(*(record(seed=s, top1=t) for s, t in enumerate((0.9, 0.92, 0.94)))), "probmask")
    half = 4.302652729911275 * 0.02 / math.sqrt(3)
    assert (row.n, row.seeds, row.label) == (3, (0, 1, 2), "provisional")
    assert row.top1.mean == pytest.approx(0.92)
    assert row.top1.sd == pytest.approx(0.02)
    assert (row.top1.low, row.top1.high) == pytest.approx((0.92 - half, 0.92 + half))


def test_costs_and_ratios_come_from_the_records():
    """At sparsity .9 the compression is 10 and a tenth of the multiply-adds remains; costs are means."""
    made = [record(seed=s, cost__wall_seconds=10.0 + s, cost__forward_passes=2 + s) for s in (0, 1)]
    row = row_of(only_board(*made), "probmask")
    assert row.measured == pytest.approx(0.9)
    assert row.compression == pytest.approx(10)
    assert (row.macs_remaining, row.relative_train_macs) == (0.1, 2.0)
    assert (row.wall_seconds, row.forward_passes) == (10.5, 2.5)


def test_a_cost_that_one_run_lacks_is_not_averaged_over_the_others():
    """A mean over some of the seeds would look like one over all of them."""
    row = row_of(only_board(record(seed=0), record(seed=1, cost__macs_dense=None)), "probmask")
    assert row.macs_remaining is None


def test_effective_sparsity_needs_all_runs():
    """The mean exists only if every run has a value, which older records do not have."""
    known = [record(seed=s, sparsity__effective=0.91 + s / 100) for s in (0, 1)]
    assert row_of(only_board(*known), "probmask").effective == pytest.approx(0.915)
    unknown = record(seed=2, sparsity__effective=None, sparsity__effective_unknown="it uses cumsum")
    assert row_of(only_board(*known, unknown), "probmask").effective is None
    assert row_of(only_board(*known, record(seed=3)), "probmask").effective is None


def test_the_drop_is_paired_by_seed():
    """Dense has seeds 0 to 2 and the row 1 to 3: only 1 and 2 count, with drops .05 and .03."""
    dense = [record("dense", None, seed=s, top1=t) for s, t in ((0, 0.99), (1, 0.95), (2, 0.97))]
    mine = [record(seed=s, top1=t) for s, t in ((1, 0.90), (2, 0.94), (3, 0.10))]
    row = row_of(only_board(*dense, *mine), "probmask")
    assert (row.drop.n, row.n) == (2, 3)
    assert row.drop.mean == pytest.approx(0.04)
    assert row.drop.sd == pytest.approx(math.sqrt(0.0002))


@pytest.mark.parametrize("path", ["model__initial_sha256", "data__split_sha256", "data__order_sha256__last"])
def test_seeds_with_other_starts_are_not_paired(path):
    """A seed with other initial weights, split or order than the dense run is left out of the drop and listed."""
    dense = [record("dense", None, seed=s, top1=0.95) for s in (0, 1)]
    mine = [record(seed=0, top1=0.9), record(seed=1, top1=0.1, **{path: "f" * 64})]
    row = row_of(only_board(*dense, *mine), "probmask")
    assert (row.drop.n, row.unpaired) == (1, (1,))
    assert row.drop.mean == pytest.approx(0.05)


def test_failed_runs_are_counted():
    """A failed run is counted in its row, and a row without any finished run is kept."""
    board = only_board(record(seed=0), record(seed=1, status="diverged"), record(sparsity=0.99, status="oom"))
    row, lost = row_of(board, "probmask"), row_of(board, "probmask", 0.99)
    assert row.failures == (leaderboard.Failure(1, "diverged", "the run is diverged"),)
    assert (lost.n, lost.top1, lost.measured, lost.label) == (0, None, None, "none")
    assert [failure.status for failure in lost.failures] == ["oom"]


def test_a_failed_run_that_is_disputed_too_fails_once():
    """An unfinished run counts once among the failures, even if it is disputed."""
    made = [record(seed=0), record(seed=1, status="oom"), record(seed=2)]
    (board,) = leaderboard.build_boards(made, disputed={made[1]["hash"], made[2]["hash"]})
    assert [(failure.seed, failure.status) for failure in board.rows[0].failures] == [(1, "oom"), (2, "disputed")]


def test_off_target_rows():
    """A method with hits_target=False, or a wrong count, makes a row off target; a kept weight of 0.0 does not."""
    exact, emergent, wrong, zero = (record(method) for method in ("exact", "emergent", "wrong", "zero"))
    emergent["method"]["traits"]["hits_target"] = False
    for made, kept_zero in ((wrong, 0), (zero, 1)):
        block = made["sparsity"]
        block["nonzero"] -= 1
        block["layers"][0]["nonzero"] -= 1
        block["measured"] = (block["prunable"] - block["nonzero"]) / block["prunable"]
        block["kept_zero"] = kept_zero
    board = only_board(exact, emergent, wrong, zero)
    assert {row.method for row in board.rows if row.off_target} == {"emergent", "wrong"}
    assert row_of(board, "wrong").point == pytest.approx(0.9001)
    assert row_of(board, "exact").point == 0.9


def test_layers_are_averaged_over_seeds():
    """The sparsity of a layer is the mean over the runs; if the runs have different layers, there is none."""
    made = [record(seed=s) for s in (0, 1)]
    (row,) = only_board(*made).rows
    expected = [1 - layer["nonzero"] / layer["n"] for layer in made[0]["sparsity"]["layers"]]
    assert [layer.sparsity for layer in row.layers] == pytest.approx(expected)
    made[1]["sparsity"]["layers"][0]["name"] = "another"
    assert only_board(*made).rows[0].layers == ()


def test_seeds_with_the_same_final_weights_are_named():
    """Seeds whose records have equal weights are listed; unknown weights are not equal."""
    runs = [record(seed=seed, weights_sha256="a" * 64) for seed in (0, 2)]
    unknown = [record(seed=seed, weights_sha256=None) for seed in (3, 4)]
    row = row_of(only_board(*runs, record(seed=1), *unknown), "probmask")
    assert row.same_weights == (0, 2)
