"""From records to boards: who shares a table, who shares a row, and numbers checked by hand."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import put, record
from pruneboard import leaderboard, report
from pruneboard.errors import NotFoundError
from pruneboard.leaderboard import Leaderboard, folders
from pruneboard.records import schema as records
from pruneboard.records import store, verdicts
from pruneboard.report import tables


def only_board(*made):
    """Return the one board the records form."""
    (board,) = leaderboard.build_boards(map(records.validate, made))
    return board


def row_of(board, method, target=0.9):
    """Return the one row of a method at a sparsity."""
    (row,) = (row for row in board.rows if (row.method, row.target) == (method, target))
    return row


def test_a_row_is_the_mean_over_its_seeds():
    """.90, .92, .94: mean .92, deviation .02, and t(2) = 4.302653 gives the interval."""
    row = row_of(only_board(*(record(seed=s, top1=t) for s, t in enumerate((0.9, 0.92, 0.94)))), "probmask")
    half = 4.302652729911275 * 0.02 / math.sqrt(3)
    assert (row.n, row.seeds, row.label) == (3, (0, 1, 2), "provisional")
    assert row.top1.mean == pytest.approx(0.92)
    assert row.top1.sd == pytest.approx(0.02)
    assert (row.top1.low, row.top1.high) == pytest.approx((0.92 - half, 0.92 + half))


def test_costs_and_ratios_come_from_the_records():
    """At sparsity .9 compression is 10 and a tenth of the multiply-adds is left; costs are means."""
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


def test_effective_sparsity_is_a_mean_over_runs_that_all_know_it():
    """Of records that say it the row has the mean; with one that cannot, or is older, it has none."""
    known = [record(seed=s, sparsity__effective=0.91 + s / 100) for s in (0, 1)]
    assert row_of(only_board(*known), "probmask").effective == pytest.approx(0.915)
    unknown = record(seed=2, sparsity__effective=None, sparsity__effective_unknown="it uses cumsum")
    assert row_of(only_board(*known, unknown), "probmask").effective is None
    assert row_of(only_board(*known, record(seed=3)), "probmask").effective is None


def test_the_drop_is_paired_by_seed():
    """Dense has seeds 0 to 2, the row 1 to 3: only 1 and 2 count, with drops .05 and .03."""
    dense = [record("dense", None, seed=s, top1=t) for s, t in ((0, 0.99), (1, 0.95), (2, 0.97))]
    mine = [record(seed=s, top1=t) for s, t in ((1, 0.90), (2, 0.94), (3, 0.10))]
    row = row_of(only_board(*dense, *mine), "probmask")
    assert (row.drop.n, row.n) == (2, 3)
    assert row.drop.mean == pytest.approx(0.04)
    assert row.drop.sd == pytest.approx(math.sqrt(0.0002))


@pytest.mark.parametrize("path", ["model__initial_sha256", "data__split_sha256", "data__order_sha256__last"])
def test_a_seed_that_began_differently_is_dropped_and_named(path):
    """Other initial weights, another split or another order than the dense run of that seed: no pair."""
    dense = [record("dense", None, seed=s, top1=0.95) for s in (0, 1)]
    mine = [record(seed=0, top1=0.9), record(seed=1, top1=0.1, **{path: "f" * 64})]
    row = row_of(only_board(*dense, *mine), "probmask")
    assert (row.drop.n, row.unpaired) == (1, (1,))
    assert row.drop.mean == pytest.approx(0.05)


def test_without_a_dense_control_there_is_no_drop():
    """A stranger's method that calls itself dense is no control, and a failed dense run is none either."""
    stranger = record("dense", None, method__distribution="stranger")
    board = only_board(stranger, record("dense", None, status="oom"), record())
    assert board.dense is None
    assert len(board.rows) == 3
    assert [row.drop for row in board.rows] == [None, None, None]


def test_of_two_dense_rows_the_one_with_more_seeds_is_the_control():
    """Drops are measured against one row, which stands first; the other is a row like any."""
    old = record("dense", None, seed=0, top1=0.5, method__version="0.0.9")
    new = [record("dense", None, seed=s, top1=0.95) for s in (0, 1)]
    board = only_board(old, *new, record(top1=0.9))
    assert board.dense is board.rows[0]
    assert (board.dense.version, board.rows[1].version) == ("0.1.0", "0.0.9")
    assert row_of(board, "probmask").drop.mean == pytest.approx(0.05)


def test_another_fingerprint_is_another_table_and_the_difference_is_named():
    """A learning rate inside the recipe splits the boards; each names its own value."""
    found = leaderboard.build_boards([record(), record(board__recipe__lr=0.2), record(board__steps=300)])
    assert len({board.fingerprint for board in found}) == len(found) == 3
    assert all(set(board.differs) == {"recipe.lr", "steps"} for board in found)
    assert {(b.differs["recipe.lr"], b.differs["steps"]) for b in found} == {(0.1, 200), (0.2, 200), (0.1, 300)}


def test_a_field_only_one_board_has_is_a_difference():
    """A missing field shows as null beside the board that has it."""
    found = leaderboard.build_boards([record(), record(board__extra=1)])
    assert sorted((board.differs["extra"] for board in found), key=str) == [1, None]


def test_boards_of_other_models_are_no_siblings():
    """Two models differ in everything; that is no news."""
    found = leaderboard.build_boards([record(), record(model__name="vit_tiny", board__model="vit_tiny")])
    assert [board.differs for board in found] == [{}, {}]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"sparsity": 0.95},
        {"method__distribution": "stranger"},
        {"method__version": "0.2.0"},
        {"method__options": {"temperature": 2}},
    ],
)
def test_what_tells_rows_apart(change):
    """Name, package, version, options and target make a row; the seed does not."""
    assert len(only_board(record(), record(seed=1), record(**{"seed": 2, **change})).rows) == 2


def test_two_different_runs_of_one_seed_are_never_averaged():
    """Equal in all a row shows, but another hash: a row of its own, with a number."""
    board = only_board(record(top1=0.8), record(seed=1, top1=0.8), record(top1=0.9, hash="f" * 64))
    assert sorted((row.variant, row.seeds) for row in board.rows) == [(0, (0, 1)), (1, (0,))]


def test_a_copy_of_a_run_counts_once():
    """The same hash in two folders is one run; the finished copy wins over a failed one."""
    row = row_of(only_board(record(status="oom"), record(top1=0.9), record(top1=0.9)), "probmask")
    assert (row.n, row.repeats, row.failures) == (1, 2, ())


def test_failed_runs_are_counted_in_their_row_and_rows_without_success_stay():
    """A failure is a row or a count, never a gap."""
    board = only_board(record(seed=0), record(seed=1, status="diverged"), record(sparsity=0.99, status="oom"))
    row, lost = row_of(board, "probmask"), row_of(board, "probmask", 0.99)
    assert row.failures == (leaderboard.Failure(1, "diverged", "the run is diverged"),)
    assert (lost.n, lost.top1, lost.measured, lost.label) == (0, None, None, "none")
    assert [failure.status for failure in lost.failures] == ["oom"]


def test_a_run_that_failed_early_joins_the_board_it_was_meant_for():
    """Steps and prunable weights are learned under way: a failed run that lacks them agrees in all the rest."""

    def early(**changes):
        made = record(seed=1, status="oom", **changes)
        del made["board"]["steps"], made["board"]["prunable"]
        return made | {"board": made["board"] | {"fingerprint": records.fingerprint(made["board"])}}

    row = row_of(only_board(record(), early()), "probmask")
    assert (row.n, len(row.failures)) == (1, 1)
    assert len(leaderboard.build_boards([record(), early(board__recipe__lr=0.2)])) == 2
    assert len(leaderboard.build_boards([early()])) == 1


def test_off_target_is_a_method_that_promises_nothing_or_a_count_that_is_wrong():
    """One weight too many is off target; a kept weight that happens to be 0.0 is not."""
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


def test_only_two_seeds_or_more_at_one_operating_point_are_ranked():
    """A single seed and an off-target row get no rank, nor do they push others down; equals share one."""
    tops = {"a": (0.9, 0.9), "b": (0.8, 0.8), "c": (0.9, 0.9), "d": (0.7, 0.7), "single": (0.99,)}
    made = [record(name, seed=s, top1=t) for name, values in tops.items() for s, t in enumerate(values)]
    made += [record("str", seed=s, top1=0.99, method__traits__hits_target=False) for s in (0, 1)]
    made += [record("alone", 0.5, seed=s) for s in (0, 1)] + [record("dense", None, seed=s) for s in (0, 1)]
    ranks = {row.method: row.rank for row in only_board(*made).rows}
    assert ranks == {"a": 1, "b": 3, "c": 1, "d": 4, "single": None, "str": None, "alone": None, "dense": None}


def test_rows_stand_dense_first_then_by_sparsity_then_by_accuracy():
    """Rows that have no accuracy stand last at their sparsity."""
    made = [record("lost", 0.5, status="oom"), record("b", 0.9, top1=0.7), record("c", 0.5, top1=0.8)]
    made += [record("d", 0.5, top1=0.9), record("dense", None, top1=0.1)]
    assert [row.method for row in only_board(*made).rows] == ["dense", "d", "c", "lost", "b"]


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


def test_compare_reads_folders_and_counts_replaced_records(tmp_path):
    """The Python door gives the boards of all folders; what --force replaced is counted in its row."""
    put(tmp_path / "one", record(top1=0.5))
    put(tmp_path / "one", record(top1=0.9), force=True)
    put(tmp_path / "two", record(seed=1, top1=0.9))
    (board,) = folders.compare([tmp_path / "one", str(tmp_path / "two")])
    (row,) = board.rows
    assert (row.n, row.top1.mean, row.superseded) == (2, 0.9, 1)
    with pytest.raises(NotFoundError):
        folders.compare([tmp_path / "three"])


def test_the_page_says_how_options_were_found():
    """Methods tuned alike are named together, and unequal effort is pointed out; a silent record says nothing."""
    made = [record("dense", None), record("a"), record("b"), record("c", tuning__trials=3, tuning__source="a <search>")]
    del made[1]["tuning"]
    whole = Leaderboard(boards=tuple(leaderboard.build_boards(made)), total=len(made))
    for text in (report.markdown(whole), report.html(whole)):
        assert "the methods did not have the same number of trials" in text
        assert "no options tried on this data: b" in text
        assert "3 sets of options tried on this data, a " in text
        assert "<search>" not in text
    equal = Leaderboard(boards=tuple(leaderboard.build_boards(made[:1] + made[3:])), total=2)
    assert "same number of trials" not in report.markdown(equal)


@pytest.mark.parametrize(("codes", "noted"), [(("abc", "def"), 1), (("abc", "abc"), 0), ((None, "abc"), 0)])
def test_a_row_of_different_codes_under_one_version_says_so(codes, noted):
    """Records hold a digest of the method's files; a row in which they differ under one version is noted."""
    made = [record(seed=seed, software__code__method=code) for seed, code in enumerate(codes)]
    board = only_board(*made)
    assert len([note for note in tables.page(board).notes if note.startswith("code: probmask at 0.9: 2 ")]) == noted


def curve_of(board, method):
    """Return the one curve of a method."""
    (curve,) = (curve for curve in board.curves if curve.rows[0].method == method)
    return curve


def several(points=(0.5, 0.75, 0.9375), seeds=4, **change):
    """Records of a full board: dense, both controls, and a method between them."""
    made = [record("dense", None, seed=s, top1=0.9, **change) for s in range(seeds)]
    for point in points:
        made += [record("probmask", point, seed=s, top1=0.85, **change) for s in range(seeds)]
        made += [record("magnitude", point, seed=s, top1=0.8 + s / 1000, **change) for s in range(seeds)]
        made += [record("random", point, seed=s, top1=0.5, **change) for s in range(seeds)]
    return made


def test_the_area_is_the_drop_that_a_curve_has_everywhere():
    """A method that loses 5 points at each operating point has an area of 5 points, and covers all of them."""
    curve = curve_of(only_board(*several()), "probmask")
    assert math.isclose(curve.area.value, 0.05)
    assert (curve.coverage, curve.missing) == (1.0, ())
    assert math.isclose(curve.area.low, 0.05)


def test_a_missing_point_and_a_failed_one_are_told_apart():
    """A point that was never run is missing; one whose run failed is there, not covered, and counted in its row."""
    made = [*several(), record("gmp", 0.5, seed=0), record("gmp", 0.75, seed=0, status="diverged")]
    curve = curve_of(only_board(*made), "gmp")
    assert curve.missing == (0.9375,)
    assert curve.coverage == 1 / 3
    assert [len(row.failures) for row in curve.rows] == [0, 1]


def test_curves_stand_by_rising_area():
    """The method that loses least over all operating points comes first."""
    assert [curve.rows[0].method for curve in only_board(*several()).curves] == ["probmask", "magnitude", "random"]


def test_a_leader_is_ahead_by_more_than_the_interval_of_the_difference():
    """Ahead in every seed by almost the same is a lead; ahead on average and behind in a seed is none."""
    steady = only_board(*several())
    assert row_of(steady, "probmask", 0.5).leads
    assert not row_of(steady, "magnitude", 0.5).leads
    near = [record("str", 0.5, seed=s, top1=0.85 + (-1) ** s / 50) for s in range(4)]
    assert not any(row.leads for row in only_board(*several(), *near).rows if row.target == 0.5)


def test_ranks_have_intervals_and_wins_against_the_baseline():
    """Rows that never change places have a rank and no other; one that is always above the baseline has P = 1."""
    board = only_board(*several())
    first = row_of(board, "probmask", 0.5)
    assert (first.rank, first.rank_low, first.rank_high) == (1, 1, 1)
    assert (first.above_baseline.value, first.above_baseline.n) == (1.0, 4)
    assert row_of(board, "random", 0.5).above_baseline is None


def test_seeds_that_began_differently_are_no_pairs():
    """A lead and a win are measured at seeds of equal initial weights only; without any there is neither."""
    made = several(points=(0.5,))
    other = [record("str", 0.5, seed=s, top1=0.89, model__initial_sha256="e" * 64) for s in range(4)]
    row = row_of(only_board(*made, *other), "str", 0.5)
    assert row.rank == 1
    assert not row.leads
    assert row.above_baseline is None
    assert row.unpaired == (0, 1, 2, 3)


def test_missing_controls_are_named_by_what_they_control():
    """A board without dense, floor and baseline says so; the supermask track has no dense network and no baseline."""
    assert only_board(record("probmask", 0.9)).missing_controls == ("dense", "floor", "baseline")
    assert only_board(*several()).missing_controls == ()
    assert only_board(record("probmask", 0.5, track="supermask")).missing_controls == ("floor",)


def test_layers_are_averaged_over_seeds():
    """The sparsity of a layer is the mean over its runs; runs with other layers give none."""
    made = [record(seed=s) for s in (0, 1)]
    (row,) = only_board(*made).rows
    expected = [1 - layer["nonzero"] / layer["n"] for layer in made[0]["sparsity"]["layers"]]
    assert [layer.sparsity for layer in row.layers] == pytest.approx(expected)
    made[1]["sparsity"]["layers"][0]["name"] = "another"
    assert only_board(*made).rows[0].layers == ()


def test_standings_compare_what_covers_the_boards():
    """Over six boards two methods are tested; a method on two of them costs the others no board."""
    made = [one for b in range(6) for one in several(seeds=2, board__recipe__lr=b / 10)]
    made += [record("gmp", 0.5, seed=s, top1=0.99, board__recipe__lr=0.0) for s in (0, 1)]
    across = leaderboard.build_standings(leaderboard.build_boards(made))["prune"]
    assert across.boards == 6
    assert across.mean_rank == {"probmask": 1.0, "magnitude (baseline)": 2.0, "random (floor)": 3.0}
    assert across.verdict.startswith("too few boards: 6, and it takes 7")
    assert leaderboard.build_standings(leaderboard.build_boards(several())) == {}


def test_a_failed_run_that_is_disputed_too_fails_once():
    """A record that did not finish counts once among the failures, whatever verification says of it."""
    made = [record(seed=0), record(seed=1, status="oom"), record(seed=2)]
    (board,) = leaderboard.build_boards(made, disputed={made[1]["hash"], made[2]["hash"]})
    assert [(failure.seed, failure.status) for failure in board.rows[0].failures] == [(1, "oom"), (2, "disputed")]


def test_what_verification_disputes_is_a_failure_and_not_ranked(tmp_path):
    """A verdict holds for the very file it was found for; a disputed run leaves its row's mean and is named there."""
    made = [record("probmask", 0.5, seed=s, top1=0.8 + s / 10) for s in (0, 1)]
    paths = [put(tmp_path, one) / "run.json" for one in made]
    out = tmp_path / "leaderboard"
    runs = [
        {"sha256": verdicts.file_sha256(path), "verdict": v, "checks": []}
        for path, v in zip(paths, ("disputed", "certified"), strict=True)
    ]
    store.write_atomic(out / "verified.json", json.dumps({"schema": 1, "runs": runs}).encode())
    whole = folders.load([tmp_path], out=out)
    (row,) = whole.boards[0].rows
    assert row.by_seed == {1: 0.9}
    assert [(failure.seed, failure.status) for failure in row.failures] == [(0, "disputed")]
    assert sorted(run.verdict for run in whole.runs) == ["certified", "disputed"]
    paths[0].write_bytes(paths[0].read_bytes() + b"\n")
    whole = folders.load([tmp_path], out=out)
    assert whole.boards[0].rows[0].n == 2
    assert whole.verdicts == {made[1]["hash"]: "certified"}
