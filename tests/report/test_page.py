"""Tests the page: one file that loads nothing, shows everything, and stays below its size limit."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import record
from leaderboard_cases import HOSTILE, Reader, decompressed, dense, ladder, rich, whole
from pruneboard import leaderboard, report
from pruneboard.leaderboard import Leaderboard
from pruneboard.report import page as page_module

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("<>&\"'`{}%\u2028\u2029\x00\x1b/!-"), min_size=1)


@pytest.fixture(scope="module")
def html(everything):
    """Return its page."""
    return report.html(everything)


# One file


def test_same_leaderboard_gives_the_same_bytes(everything, html):
    """Building the page twice gives the same text."""
    assert report.html(rich()) == html


def test_nothing_is_loaded(html):
    """Every address is a fragment of the page or an embedded image, and its policy forbids everything else."""
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


def test_links_within_the_page_have_targets(html):
    """Each address `#name` is the id of an element in the page."""
    reader = Reader(html)
    targets = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    links = {str(attributes["href"])[1:] for tag, attributes in reader.elements if tag == "a"}
    assert links <= targets


# Without scripts


def test_tables_are_readable_without_scripts(everything, html):
    """Mean, interval and seeds of every row are plain text, and each board's chart is an image."""
    text = Reader(html).text()
    for row in (row for one in everything.boards for row in one.rows if row.top1):
        assert f"{100 * row.top1.mean:.2f}" in text
    assert "6 official" in text
    assert "○ 93.00" in text
    images = [attributes for tag, attributes in Reader(html).elements if tag == "img"]
    assert len(images) == len(everything.boards)


def test_details_of_a_run_are_readable_without_scripts(everything, html):
    """The records of the newest runs are plain HTML, with path and provenance."""
    text = Reader(html).text()
    assert everything.runs[0].path in text
    assert everything.runs[0].record["hash"] in text
    assert "software.commit" in text


# Nothing is hidden


def test_page_shows_what_is_missing_failed_and_off_target(html):
    """The page shows failures, off-target rows, missing controls, differing fields and skipped files."""
    text = Reader(html).text()
    for shown in (
        "seed 0 diverged: the run is diverged",
        "0.9 off target",
        "Missing controls: no finished run of floor, baseline",
        "steps = 300",
        "it is no JSON",
        "missing",
    ):
        assert shown in text, shown


def test_published_numbers_are_only_in_the_chart(html):
    """A published number is part of the chart's data with its source, but of no table."""
    assert '"source":"a paper"' in html
    assert "a paper" not in Reader(html).text()


def test_standings_are_shown():
    """If two boards share methods, their mean ranks are shown, and why there is no test yet."""
    made = [*dense(2), *ladder("good", 2, 0.001), *ladder("worse", 2, 0.02)]
    more = {"board__steps": 300}
    made += [*dense(2, **more), *ladder("good", 2, 0.001, **more), *ladder("worse", 2, 0.02, **more)]
    text = Reader(report.html(whole(made))).text()
    assert "good 1.00" in text
    assert "worse 2.00" in text
    assert "There is no test yet: too few boards" in text


def test_supermask_boards_have_their_own_tab(everything, html):
    """Every board in the page's list has its track, and both tracks exist."""
    listed = Reader(html).blocks()["settings"]["boards"]
    assert {(item["key"].removeprefix("board-"), item["track"]) for item in listed} == {
        (one.fingerprint, one.track) for one in everything.boards
    }
    assert {one.track for one in everything.boards} == {"prune", "supermask"}


# Untrusted text


def count_scripts(page: str) -> int:
    """Return the number of script elements of a page."""
    return sum(tag == "script" for tag, _ in Reader(page).elements)


def test_method_named_like_a_script_is_text(everything, html):
    """The name is shown literally and creates no element."""
    assert HOSTILE in Reader(html).text()
    assert HOSTILE not in html
    assert count_scripts(html) == 5 + len(everything.boards)


@settings(max_examples=6, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_text_of_records_creates_no_elements(name, message, data):
    """Names, messages, options and data sets with arbitrary characters do not change the elements of the page."""
    changes = {"method__options": {name: message}, "data__name": data[:256], "board__recipe": {name: [message]}}
    made = [record(name[:256], 0.9, 0, **changes), record("plain", 0.9, 0, **changes)]
    failed = record("plain", 0.9, 1, status="failed", **changes)
    failed["error"] = {"kind": name, "message": message}
    problems = ((message, name),)
    hostile = report.html(whole([*made, failed], problems=problems))
    reader = Reader(hostile)
    assert count_scripts(hostile) == 6
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert {tag for tag, _ in reader.elements} <= {tag for tag, _ in Reader(report.html(rich())).elements}


def test_lone_surrogates_are_removed():
    """A lone surrogate, which cannot be encoded, is left out."""
    made = [record("m\ud800", 0.9, 0, data__name="d\udfff"), record("n", 0.9, 0, data__name="d\udfff")]
    report.html(whole(made)).encode("utf-8")


# Size


@pytest.fixture(scope="module")
def crowd():
    """Return many similar boards with different fingerprints, with names as long and as expensive as possible."""
    made = [*dense(2), *ladder("&" * 250, 2), *ladder("\U0001f600" * 250, 2)]
    one = leaderboard.build_boards(made)[0]
    boards = tuple(dataclasses.replace(one, fingerprint=f"{number:012x}") for number in range(700))
    return Leaderboard(boards=boards, total=700 * len(made), problems=(("&" * 300, "<" * 400),) * 5000)


def test_the_page_is_limited_and_lists_omitted_boards(crowd):
    """The page stays below its limit, and each board is shown, compressed or listed."""
    page = page_module._build(crowd, 0.05)
    reader, hidden = Reader(page), decompressed(page)
    keys = {attributes.get("id") for _, attributes in reader.elements}
    shown = {f"board-{one.fingerprint}" for one in crowd.boards if f"board-{one.fingerprint}" in keys | hidden.keys()}
    assert shown
    assert keys & shown
    assert shown == {item["key"] for item in reader.blocks()["settings"]["boards"]}
    assert f"{len(crowd.boards) - len(shown)} smaller boards are only in" in reader.text()
    limit = 0.05 * (page_module.PLAIN_BOARDS + page_module.COMPRESSED_BOARDS)
    assert len(page.encode()) < page_module.MAX_BYTES
    assert sum(len(text.encode()) for key, text in hidden.items()) > limit


def test_lists_alone_are_far_below_the_limit(crowd):
    """Without any board, lists and headings use less than a third of the limit."""
    assert len(page_module._build(crowd, 0.0).encode()) < page_module.MAX_BYTES / 3


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
def test_unusual_boards_have_a_page(made):
    """With nothing to compare, or with extreme numbers, there are still a page and files."""
    board = whole(made)
    assert "What the numbers mean" in Reader(report.html(board)).text()
    report.figures(board)
    report.latex(board)
