"""Tests the comparison of methods over several boards."""

from __future__ import annotations

from fake_records import record
from leaderboard_cases import full_board
from pruneboard import leaderboard


def test_standings_include_methods_on_most_boards():
    """A method on one of six boards is not included, so that the others are compared over all six."""
    made = [one for b in range(6) for one in full_board(seeds=2, board__recipe__lr=b / 10)]
    made += [record("gmp", 0.5, seed=s, top1=0.99, board__recipe__lr=0.0) for s in (0, 1)]
    across = leaderboard.build_standings(leaderboard.build_boards(made))["prune"]
    assert across.boards == 6
    assert across.mean_rank == {"probmask": 1.0, "magnitude (baseline)": 2.0, "random (floor)": 3.0}
    assert across.verdict.startswith("too few boards: 6 of at least 7")
    assert leaderboard.build_standings(leaderboard.build_boards(full_board())) == {}


def test_incomplete_curves_are_left_out():
    """A method with a single seed, a missing point, an off-target row or an ablation is not compared."""
    made = []
    for lr in (0.1, 0.2):
        same = {"board__recipe__lr": lr}
        made += full_board(points=(0.5, 0.75), seeds=2, **same)
        made += [record("single", point, **same) for point in (0.5, 0.75)]
        made += [record("partial", 0.5, seed, **same) for seed in (0, 1)]
        off = {"method__traits__hits_target": False}
        made += [record("off", point, seed, **same, **off) for point in (0.5, 0.75) for seed in (0, 1)]
        shuffled = {"method__ablation": "shuffled-mask"}
        made += [record("ablated", point, seed, **same, **shuffled) for point in (0.5, 0.75) for seed in (0, 1)]
    found = leaderboard.build_standings(leaderboard.build_boards(made))["prune"]
    assert set(found.mean_rank) == {"probmask", "magnitude (baseline)", "random (floor)"}


def test_without_a_dense_control_accuracy_is_compared():
    """On the supermask track there is no area, so methods are ranked by their mean accuracy."""
    supermask = {"track": "supermask", "board__track": "supermask"}
    made = [
        record(method, 0.5, seed, top1, **supermask, board__recipe__lr=lr)
        for method, top1 in (("edge-popup", 0.8), ("probmask", 0.7))
        for seed in (0, 1)
        for lr in (0.1, 0.2)
    ]
    found = leaderboard.build_standings(leaderboard.build_boards(made))["supermask"]
    assert (found.boards, found.mean_rank) == (2, {"edge-popup": 1.0, "probmask": 2.0})
