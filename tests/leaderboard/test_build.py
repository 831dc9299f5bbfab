"""Tests which records share a board and which share a row."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import full_board, only_board, row_of
from pruneboard import leaderboard
from pruneboard.records import schema as records


def test_another_fingerprint_is_another_board():
    """A learning rate inside the recipe separates boards, and each shows its own value."""
    found = leaderboard.build_boards([record(), record(board__recipe__lr=0.2), record(board__steps=300)])
    assert len({board.fingerprint for board in found}) == len(found) == 3
    assert all(set(board.differs) == {"recipe.lr", "steps"} for board in found)
    assert {(b.differs["recipe.lr"], b.differs["steps"]) for b in found} == {(0.1, 200), (0.2, 200), (0.1, 300)}


def test_a_field_only_one_board_has_is_a_difference():
    """A missing field is shown as null on the other board."""
    found = leaderboard.build_boards([record(), record(board__extra=1)])
    assert sorted((board.differs["extra"] for board in found), key=str) == [1, None]


def test_of_very_many_differing_fields_a_board_lists_its_own():
    """Otherwise thousands of boards with fields of their own would each list all of these."""
    found = leaderboard.build_boards([record(**{f"board__own{number}": number}) for number in range(101)])
    assert sorted(next(iter(board.differs.items())) for board in found) == sorted((f"own{n}", n) for n in range(101))
    assert all(len(board.differs) == 1 for board in found)


def test_boards_of_other_models_are_not_compared():
    """Two models differ in everything, so the differences are not listed."""
    found = leaderboard.build_boards([record(), record(model__name="vit_tiny", board__model="vit_tiny")])
    assert [board.differs for board in found] == [{}, {}]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"sparsity": 0.95},
        {"method__distribution": "third-party"},
        {"method__version": "0.2.0"},
        {"method__options": {"temperature": 2}},
    ],
)
def test_what_tells_rows_apart(change):
    """A row is identified by name, package, version, options and target, but not by the seed."""
    assert len(only_board(record(), record(seed=1), record(**{"seed": 2, **change})).rows) == 2


def test_two_different_runs_of_one_seed_are_never_averaged():
    """A run that agrees in everything that a row shows, but has another hash, forms a separate, numbered row."""
    board = only_board(record(top1=0.8), record(seed=1, top1=0.8), record(top1=0.9, hash="f" * 64))
    assert sorted((row.variant, row.seeds) for row in board.rows) == [(0, (0, 1)), (1, (0,))]


def test_a_copy_of_a_run_counts_once():
    """The same hash in two folders is one run, and a finished copy takes precedence over a failed one."""
    row = row_of(only_board(record(status="oom"), record(top1=0.9), record(top1=0.9)), "probmask")
    assert (row.n, row.repeats, row.failures) == (1, 2, ())


def test_copies_of_a_run_with_different_results_are_named():
    """Records of equal hash and different measurements are a conflict; equal ones are copies only."""
    known = [record(top1=0.9), record(top1=0.9, cost__wall_seconds=1.0)]
    assert row_of(only_board(*known), "probmask").conflicting == ()
    assert row_of(only_board(*known, record(top1=0.95)), "probmask").conflicting == (0,)


def test_of_two_dense_rows_the_one_with_more_seeds_is_the_control():
    """Drops are measured against one dense row, which is listed first; the other is an ordinary row."""
    old = record("dense", None, seed=0, top1=0.5, method__version="0.0.9")
    new = [record("dense", None, seed=s, top1=0.95) for s in (0, 1)]
    board = only_board(old, *new, record(top1=0.9))
    assert board.dense is board.rows[0]
    assert (board.dense.version, board.rows[1].version) == ("0.1.0", "0.0.9")
    assert row_of(board, "probmask").drop.mean == pytest.approx(0.05)


def test_without_a_dense_control_there_is_no_drop():
    """A third-party method that calls itself dense is not a control, and neither is a failed dense run."""
    third_party = record("dense", None, method__distribution="third-party")
    board = only_board(third_party, record("dense", None, status="oom"), record())
    assert board.dense is None
    assert len(board.rows) == 3
    assert [row.drop for row in board.rows] == [None, None, None]


def test_an_early_failure_joins_its_board():
    """A run that failed before its steps and prunable weights were known is assigned to the board."""

    def early(**changes):
        made = record(seed=1, status="oom", **changes)
        del made["board"]["steps"], made["board"]["prunable"]
        return made | {"board": made["board"] | {"fingerprint": records.fingerprint(made["board"])}}

    row = row_of(only_board(record(), early()), "probmask")
    assert (row.n, len(row.failures)) == (1, 1)
    assert len(leaderboard.build_boards([record(), early(board__recipe__lr=0.2)])) == 2
    assert len(leaderboard.build_boards([early()])) == 1


def test_missing_controls_are_listed():
    """A board lists the missing controls among dense, floor and baseline; the supermask track only needs the floor."""
    assert only_board(record("probmask", 0.9)).missing_controls == ("dense", "floor", "baseline")
    assert only_board(*full_board()).missing_controls == ()
    assert only_board(record("probmask", 0.5, track="supermask")).missing_controls == ("floor",)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_order_of_records_does_not_matter(seed):
    """Shuffled records give the same boards."""
    made = [record("dense", None, seed=s, top1=0.95) for s in range(3)]
    made += [record(m, p, seed=s, top1=0.9 - p / 10) for m in ("a", "b") for p in (0.5, 0.9) for s in range(3)]
    made += [record(board__steps=300)]
    shuffled = made[:]
    random.Random(seed).shuffle(shuffled)
    assert leaderboard.build_boards(shuffled) == leaderboard.build_boards(made)
