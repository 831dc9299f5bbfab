"""The page: one file, nothing loaded, every text a text, and never larger than it may be."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import HOSTILE, Reader, dense, ladder, rich, unpacked, whole
from pruneboard import leaderboard, report
from pruneboard.leaderboard import Leaderboard
from pruneboard.report import packing, points, section, views
from pruneboard.report import page as pages
from pruneboard.report.templating import script

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("<>&\"'`{}%\u2028\u2029\x00\x1b/!-"), min_size=1)


@pytest.fixture(scope="module")
def board():
    """A leaderboard with everything on it."""
    return rich()


@pytest.fixture(scope="module")
def html(board):
    """Its page."""
    return report.html(board)


# One file


def test_same_leaderboard_gives_the_same_bytes(board, html):
    """Building the page twice gives the same text."""
    assert report.html(rich()) == html


def test_nothing_is_loaded_from_anywhere(html):
    """Every address in the page is a place within it or an image written out, and its policy forbids all else."""
    reader = Reader(html)
    addresses = [
        value
        for _, attributes in reader.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data", "poster")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in addresses)
    metas = [attributes for tag, attributes in reader.elements if tag == "meta"]
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:")
    assert "unsafe-eval" not in policy
    assert not re.search(r"@import|url\((?!#|data:)", html[: html.index("</style>")])


def test_every_link_within_the_page_leads_somewhere(html):
    """Each address `#name` names an element that is there, or is shown by the script from a packed part."""
    reader = Reader(html)
    targets = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    links = {str(attributes["href"])[1:] for tag, attributes in reader.elements if tag == "a"}
    assert links <= targets


# Without scripts


def test_tables_are_readable_without_scripts(board, html):
    """Every row's mean, interval and seeds stand in plain text, and each board's curve in an image."""
    text = Reader(html).text()
    for row in (row for one in board.boards for row in one.rows if row.top1):
        assert f"{100 * row.top1.mean:.2f}" in text
    assert "6 official" in text
    assert "○ 93.00" in text
    images = [attributes for tag, attributes in Reader(html).elements if tag == "img"]
    assert len(images) == len(board.boards)


def test_details_of_a_run_are_readable_without_scripts(board, html):
    """The records of the newest runs are written out, with their path and provenance."""
    text = Reader(html).text()
    assert board.runs[0].path in text
    assert board.runs[0].record["hash"] in text
    assert "software.commit" in text


# What must not be hidden


def test_page_shows_what_is_missing_failed_and_off_target(html):
    """Failures with their messages, off-target rows, missing controls, what differs and skipped files are told."""
    text = Reader(html).text()
    for shown in (
        "seed 0 diverged: the run is diverged",
        "0.9 off target",
        "Controls are missing: no finished run of floor, baseline",
        "steps = 300",
        "it is no JSON",
        "missing",
    ):
        assert shown in text, shown


def test_rank_stands_with_its_interval_and_only_leaders_are_bold(board):
    """A rank is written with the ranks that are plausible, and the class of bold text follows `leads`."""
    column = next(column for column in views.COLUMNS if column.title == "Rank")
    bold = next(column for column in views.COLUMNS if column.title == "Top-1, %")
    rows = [row for one in board.boards for row in one.rows if row.rank]
    assert rows
    for row in rows:
        assert column.cell(row).text == f"{row.rank} [{row.rank_low}, {row.rank_high}]"
        assert (bold.cell(row).css == "lead") is row.leads


def test_badge_of_a_row_is_its_worst_verdict(board):
    """One disputed run disputes the row; a row of which one run was not verified is unverified."""
    row = board.boards[0].rows[0]
    first, *others = row.hashes
    good = dict.fromkeys(row.hashes, "certified")
    assert views.verdict(row, good) == ("certified", f"{row.n} certified")
    assert views.verdict(row, good | {first: "disputed"}) == ("disputed", f"{len(others)} certified, 1 disputed")
    assert views.verdict(row, dict.fromkeys(others, "certified"))[0] == "unverified"
    assert views.verdict(row, dict.fromkeys(row.hashes, "<b>"))[0] == "unverified"


def test_published_numbers_stand_in_the_chart_and_in_no_table(html):
    """A published point is in the chart's data with its source, and nowhere in the page's text."""
    assert '"source":"a paper"' in html
    assert "a paper" not in Reader(html).text()


def test_standings_over_boards_are_shown_with_what_they_lack():
    """Where two boards share methods, their mean ranks are in the text, and why there is no test yet."""
    made = [*dense(2), *ladder("good", 2, 0.001), *ladder("worse", 2, 0.02)]
    more = {"board__steps": 300}
    made += [*dense(2, **more), *ladder("good", 2, 0.001, **more), *ladder("worse", 2, 0.02, **more)]
    text = Reader(report.html(whole(made))).text()
    assert "good 1.00" in text
    assert "worse 2.00" in text
    assert "No test can be made yet: too few boards" in text


def test_supermask_boards_stand_on_a_tab_of_their_own(board, html):
    """The page's list of boards gives each its track, and both tracks have a section."""
    listed = Reader(html).blocks()["settings"]["boards"]
    assert {(item["key"].removeprefix("board-"), item["track"]) for item in listed} == {
        (one.fingerprint, one.track) for one in board.boards
    }
    assert {one.track for one in board.boards} == {"prune", "supermask"}


# Text stays text


def scripts_in(page: str) -> int:
    """Return how many script elements a page has."""
    return sum(tag == "script" for tag, _ in Reader(page).elements)


def test_method_named_like_a_script_is_text(board, html):
    """The name is in the page's text as it stands, and no element was made of it."""
    assert HOSTILE in Reader(html).text()
    assert HOSTILE not in html
    assert scripts_in(html) == 5 + len(board.boards)


@settings(max_examples=6, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_no_text_of_a_record_makes_an_element(name, message, data):
    """Names, messages, options and data sets of any characters leave the page's elements as they are."""
    changes = {"method__options": {name: message}, "data__name": data[:256], "board__recipe": {name: [message]}}
    made = [record(name[:256], 0.9, 0, **changes), record("plain", 0.9, 0, **changes)]
    failed = record("plain", 0.9, 1, status="failed", **changes)
    failed["error"] = {"kind": name, "message": message}
    problems = ((message, name),)
    hostile = report.html(whole([*made, failed], problems=problems))
    reader = Reader(hostile)
    assert scripts_in(hostile) == 6
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert {tag for tag, _ in reader.elements} <= {tag for tag, _ in Reader(report.html(rich())).elements}


@given(st.recursive(TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5))
def test_json_in_a_script_block_cannot_end_it(value):
    """What is written into the block reads back, without a character that HTML or JavaScript gives a meaning."""
    text = str(script(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_unfinished_surrogates_in_a_name_do_not_stop_the_page():
    """Half a character, which no encoding accepts, is left out."""
    made = [record("m\ud800", 0.9, 0, data__name="d\udfff"), record("n", 0.9, 0, data__name="d\udfff")]
    report.html(whole(made)).encode("utf-8")


# Size


@pytest.fixture(scope="module")
def crowd():
    """Many boards of one kind, told apart by their fingerprints, with names as long and as costly as can be."""
    made = [*dense(2), *ladder("&" * 250, 2), *ladder("\U0001f600" * 250, 2)]
    one = leaderboard.build_boards(made)[0]
    boards = tuple(dataclasses.replace(one, fingerprint=f"{number:012x}") for number in range(700))
    return Leaderboard(boards=boards, total=700 * len(made), problems=(("&" * 300, "<" * 400),) * 5000)


def test_page_is_bounded_and_says_what_it_left_out(crowd):
    """However many boards there are, the page stays below its limit, and each is shown, packed or named."""
    page = pages._page(crowd, 0.05)
    reader, packed = Reader(page), unpacked(page)
    keys = {attributes.get("id") for _, attributes in reader.elements}
    shown = {f"board-{one.fingerprint}" for one in crowd.boards if f"board-{one.fingerprint}" in keys | packed.keys()}
    assert shown
    assert keys & shown
    assert shown == {item["key"] for item in reader.blocks()["settings"]["boards"]}
    assert f"{len(crowd.boards) - len(shown)} boards with fewer rows stand only in" in reader.text()
    limit = 0.05 * (pages.PLAIN_BOARDS + pages.PACKED_BOARDS)
    assert len(page.encode()) < pages.LARGEST
    assert sum(len(text.encode()) for key, text in packed.items()) > limit


def test_frame_alone_is_far_below_the_limit(crowd):
    """With room for no board at all, lists and headings leave most of the limit free."""
    assert len(pages._page(crowd, 0.0).encode()) < pages.LARGEST / 3


def test_packed_parts_are_what_they_would_have_been_in_the_page(board):
    """A board that is packed unpacks to the same HTML that would stand in the page."""
    first, room = pages._parts(board.boards)[0], packing.SizeBudget(0, 10**6)
    context = section.PageContext({}, {}, set())
    text = section.section(first, board.boards[0], (), context, drawn=False)
    assert not room.holds_plain(first.key, text)
    room.close()
    packed = report.html(dataclasses.replace(board, runs=()))
    assert first.key in room.where
    assert f'id="{first.key}"' in packed
    small = pages._page(board, 0.001)
    assert all(f'id="{key}"' in part for key, part in unpacked(small).items())


def test_room_keeps_to_its_bytes():
    """What does not fit as it stands is packed, and what does not fit packed either makes the room full."""
    room = packing.SizeBudget(10, 100)
    assert room.holds_plain("a", "ä" * 5)
    assert not room.holds_plain("b", "x")
    room.close()
    assert room.where == {"b": (0, 0)}
    assert not room.full
    assert not room.holds_plain("c", "".join(map(chr, range(300, 3000))))
    room.close()
    assert room.full
    assert "c" not in room.where


def test_large_board_keeps_whole_methods(board):
    """A board beyond the rows of a page is cut between methods, never within one."""
    one = board.boards[0]
    many = tuple(dataclasses.replace(curve, rows=curve.rows * 400) for curve in one.curves)
    rows = tuple(row for curve in many for row in curve.rows)
    cut = points.cut(dataclasses.replace(one, curves=many, rows=rows), section.MOST_ROWS)
    assert 0 < len(cut.rows) <= section.MOST_ROWS
    assert all(curve in many for curve in cut.curves)
    assert len(cut.rows) == sum(len(curve.rows) for curve in cut.curves)


@pytest.mark.parametrize(
    "made",
    [
        [],
        dense(1),
        [record("a", 0.9, 0, status="failed")],
        [record("a", 0.0, 0)],
        [record("a", 0.9, 0, sparsity__measured=1, sparsity__nonzero=0, cost__macs_remaining=0)],
        [record("a", 0.9, 0, cost__wall_seconds=10**30, cost__macs_remaining=10**30, cost__macs_dense=1)],
    ],
    ids=["nothing", "dense alone", "only failures", "nothing pruned", "everything pruned", "huge numbers"],
)
def test_boards_at_the_edge_have_a_page(made):
    """With nothing to compare, or numbers at the ends of what a record may hold, there are a page and files."""
    board = whole(made)
    assert "What the numbers mean" in Reader(report.html(board)).text()
    report.figures(board)
    report.latex(board)
