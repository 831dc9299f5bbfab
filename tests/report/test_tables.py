"""Tests the tables and notes of a board as plain text."""

from __future__ import annotations

import pytest

from fake_records import record
from leaderboard_cases import full_board, only_board, whole
from pruneboard import leaderboard, report
from pruneboard.report import tables
from report_cases import cells


def notes_of(*made):
    """Return the notes of the one board that some records form."""
    return tables.board_tables(only_board(*made)).notes


def tuned(method, trials, source=None):
    """Return a record with a number of tried option sets."""
    return record(method, tuning__trials=trials, tuning__source=source)


def test_equal_tuning_is_one_line():
    """The dense control is not tuned and does not count."""
    made = [record("dense", None), tuned("a", 3, "search"), tuned("b", 3, "search")]
    assert notes_of(*made) == ("Tuning: 3 option sets for every method (search)",)
    assert notes_of(tuned("a", 1), tuned("b", 1)) == ("Tuning: 1 option set for every method",)
    assert notes_of(tuned("a", 0), tuned("b", 0)) == ("Tuning: none on this data set",)


def test_unequal_tuning_is_stated_per_method():
    """Methods that were tuned in the same way are listed together, and different numbers of trials are noted."""
    assert notes_of(tuned("a", 0), tuned("b", 3, "x"), tuned("c", 3, "x")) == (
        "Tuning: the number of option sets tried on this data set differs between methods",
        "Tuning: none on this data set for a",
        "Tuning: 3 option sets for b, c (x)",
    )
    assert notes_of(tuned("a", 3, "x"), tuned("b", 3, "y")) == (
        "Tuning: 3 option sets for a (x)",
        "Tuning: 3 option sets for b (y)",
    )


def test_unknown_tuning_is_not_stated():
    """A record without this information is not counted as tuned like the others."""
    unknown = record("a")
    del unknown["tuning"]
    assert notes_of(unknown) == ()
    assert notes_of(unknown, tuned("b", 3)) == ("Tuning: 3 option sets for b",)


def test_tuning_is_in_markdown_and_on_the_page():
    """The source comes from a record, so its markup is escaped."""
    leaderboard = whole([record("dense", None), tuned("a", 0), tuned("b", 3, "a <search>")])
    for text in (report.markdown(leaderboard), report.html(leaderboard)):
        assert "the number of option sets tried on this data set differs between methods" in text
        assert "Tuning: none on this data set for a" in text
        assert "Tuning: 3 option sets for b (a " in text
        assert "<search>" not in text


@pytest.mark.parametrize(("codes", "noted"), [(("abc", "def"), 1), (("abc", "abc"), 0), ((None, "abc"), 0)])
def test_different_code_digests_are_noted(codes, noted):
    """A note says if runs of a row have the same version but different digests of the method's code."""
    made = [record(seed=seed, software__code__method=code) for seed, code in enumerate(codes)]
    expected = "code: probmask at 0.9: runs with the same version have 2 different code digests"
    assert notes_of(*made).count(expected) == noted


def test_rows_have_short_names_in_the_tables():
    """Version, package, options and number are shown only if two rows would otherwise have the same name."""
    made = [record("a"), record("b", method__options={"t": 1}), record("b", method__options={"t": 2})]
    made += [record("c"), record("c", hash="f" * 64), record("d"), record("d", method__version="0.2.0")]
    lines = report.markdown(whole(made)).splitlines()
    names = {cells(line)[0] for line in lines if line.startswith("|")}
    assert {"a", "b t=1", "b t=2", "c", "c #2", "d 0.1.0", "d 0.2.0"} <= names


def test_effective_sparsity_is_a_column_if_known():
    """A board of older records, which do not contain it, has no such column."""
    newer = [record("a", 0.9, seed, sparsity__effective=0.95) for seed in (0, 1)]
    (known,), (none,) = (leaderboard.build_boards(runs) for runs in (newer, [record()]))
    assert "effective" in tables.board_tables(known).detail.headers
    assert "effective" not in tables.board_tables(none).detail.headers


def test_the_area_table_needs_two_operating_points():
    """With a single operating point, there is no curve."""
    assert tables.board_tables(only_board(*full_board(points=(0.5,)))).curves.rows == ()
    table = tables.board_tables(only_board(*full_board(points=(0.5, 0.75)))).curves
    assert table.headers == ("method", "area", "interval", "coverage", "missing at")
    assert table.rows[0] == ("probmask", "5.00", "[5.00, 5.00]", "100 %", "-")


def test_standings_list_significant_differences():
    """With seven boards three methods can be tested, and p after Holm's correction is shown."""
    made = [one for lr in range(7) for one in full_board(seeds=2, board__recipe__lr=lr / 10)]
    ((heading, table, note),) = tables.standing_tables(whole(made))
    assert (heading, note) == ("prune, 7 boards", "")
    assert table.rows == (
        ("probmask", "1.00", "magnitude (baseline) (0.047), random (floor) (0.047)"),
        ("magnitude (baseline)", "2.00", "random (floor) (0.047)"),
        ("random (floor)", "3.00", "-"),
    )


def test_a_declared_change_of_weights_is_noted():
    """A row whose method changes weights when it hardens has a note, in the text and on the page."""
    made = record("a", method__traits__writes_weights_at_harden=True)
    found = [note for note in notes_of(made, record("b")) if note.startswith("hardening")]
    assert found == ["hardening: a at 0.9: the method changes weights when it hardens, as it declares"]
    assert "the method changes weights when it hardens" in report.html(whole([made]))


def test_records_of_earlier_rules_have_a_table_of_their_own_that_says_why():
    """Boards of two rules are not merged, and that of the earlier rules says what was changed since."""
    made = [record("a", rules=rules, board__rules=rules) for rules in (1, 2)]
    leaderboard = whole(made)
    facts = {board.fields["rules"]: " ".join(tables.board_tables(board).facts) for board in leaderboard.boards}
    why = "rules 1: not comparable with rules 2, under which validations are charged, and harden changes weights only"
    assert why in facts[1]
    assert why not in facts[2]
    assert why in report.html(leaderboard)


def test_boards_of_one_version_of_the_rules_do_not_mention_it():
    """Records of earlier rules alone have no such note: there is nothing that they could be confused with."""
    assert "not comparable with" not in report.markdown(whole([record("a", rules=1, board__rules=1)]))


def test_a_table_has_a_limited_number_of_operating_points():
    """The table of all rows has every point; a note says which ones have a column, in LaTeX a comment."""
    made = [record(sparsity=number / 1000) for number in range(1, 111)]
    content = tables.board_tables(only_board(*made))
    assert (len(content.grid.headers), len(content.detail.rows)) == (1 + 100, 110)
    assert "the first 100 of 110 sparsities have columns; the table of all rows has all" in content.notes
    assert "% The tables have the first 100 of 110 operating points." in report.latex(whole(made))
    assert tables.missing_text(only_board(*made, record("b", 0.001)).curves[0]).endswith("0.101, …")


def test_chance_is_a_line_of_the_table_and_its_rows_say_so():
    """Chance and majority class are lines below the methods; a row at chance has no rank and a note."""
    made = [record("a", 0.9, s, 0.1, data__majority=0.25) for s in range(3)]
    made += [record(name, 0.9, s, 0.8, data__majority=0.25) for s in range(3) for name in ("b", "c")]
    found = tables.board_tables(only_board(*made))
    assert found.grid.rows[-2:] == (("(chance)", "10.00"), ("(majority class)", "25.00"))
    rank = found.detail.headers.index("rank")
    assert {row[0]: row[rank] for row in found.detail.rows} == {"b": "1 [1, 1]", "c": "1 [1, 1]", "a": "at chance"}
    assert found.notes[-1] == "at chance: a at 0.9: 95 % interval [10.00, 10.00], not above 10.00: not ranked"


def test_a_board_of_unknown_classes_has_no_line_for_chance():
    """Without the number of classes in the records, there is no such line."""
    found = tables.board_tables(only_board(record("a", data__classes=None)))
    assert [row[0] for row in found.grid.rows] == ["a"]


def test_copies_that_pose_as_results_are_noted():
    """Seeds with the same weights and records that contradict each other are noted in Markdown and on the page."""
    runs = [record(seed=seed, weights_sha256="a" * 64) for seed in range(60)]
    found = whole([*runs, record(top1=0.5)])
    for text in (report.markdown(found), report.html(found)):
        assert "have equal final weights, so they are not independent" in text
        assert "seed 0: there are records with different results, of which one is shown" in text
