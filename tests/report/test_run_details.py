"""Tests the details of single runs on the page."""

from __future__ import annotations

from fake_records import record
from pruneboard.leaderboard import RunEntry
from pruneboard.report import run_details
from report_cases import failed_record, hostile_record


def details(made, **fields):
    """Return the details of a record."""
    return run_details.run_details(RunEntry(path="results/x/run.json", record=made, **fields))


def values(found):
    """Return path -> text of all listed fields."""
    return {path: text for _, facts in found.blocks for path, text in facts}


def test_all_small_fields_of_a_record_are_listed():
    """Paths are dotted, and the fields with one entry per layer are left out."""
    made = record("a", 0.9, 3, 0.91)
    found = details(made, verdict="certified")
    assert (found.key, found.method, found.sparsity, found.seed) == (made["hash"], "a", "0.9", "3")
    assert (found.top1, found.status, found.verdict) == ("91.00", "done", "certified")
    listed = values(found)
    assert listed["metrics.test.top1"] == "0.91"
    assert listed["software.commit"] == "c" * 40
    assert listed["data.order_sha256.first"] == made["data"]["order_sha256"]["first"]
    assert not listed.keys() & {"sparsity.layers", "board.prunable"}


def test_a_failed_run_has_its_error_and_no_accuracy():
    """Blocks that the record does not have are not listed."""
    found = details(record("a", status="oom"))
    assert (found.top1, found.status) == ("-", "oom")
    assert values(found)["error.message"] == "the run is oom"
    assert "metrics" not in dict(found.blocks)


def test_unknown_verdicts_are_unverified():
    """The verdict is a CSS class of the page, so only known ones are used."""
    assert details(record()).verdict == "unverified"
    assert details(record(), verdict="<b>").verdict == "unverified"


def test_the_number_of_fields_is_limited():
    """However many fields a record has, only so many are listed."""
    made = record(hardware={f"field{number}": number for number in range(1000)})
    listed = [path for title, facts in details(made).blocks if title != "run" for path, _ in facts]
    assert len(listed) == run_details.MAX_FACTS


def test_texts_are_short_and_printable():
    """Control characters and long texts of untrusted records are removed or shortened."""
    for made in (hostile_record(), failed_record()):
        found = details(made)
        texts = [found.method, found.board, *values(found), *values(found).values()]
        assert all(len(text) <= 300 and "\x1b" not in text and "\u202e" not in text for text in texts)
        "".join(texts).encode()
