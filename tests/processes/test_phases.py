"""Reports of the current phase: who receives them, and how inner phases are named."""

from __future__ import annotations

import pytest

from pruneboard.processes import phases


@pytest.fixture
def seen():
    """The reports received during the test."""
    found = []
    with phases.reported_to(lambda *report: found.append(report)):
        yield found


def test_a_report_without_a_receiver_is_ignored():
    """Nothing happens without a receiver, and a receiver gets nothing after its block."""
    found = []
    with phases.reported_to(lambda *report: found.append(report)):
        phases.report("inside")
    phases.report("outside")
    phases.item("outside", 1)
    assert found == [("inside", 0, 0)]


def test_items_are_counted_before_they_are_worked_on(seen):
    """`counted` yields its items unchanged, and reports each one first."""
    for item in phases.counted("batch", "ab", 2):
        seen.append(item)
    assert seen == [("batch", 1, 2), "a", ("batch", 2, 2), "b"]


def test_inner_phases_are_named_after_the_outer_one_and_its_item(seen):
    """A phase inside another one is named after it and after its current item, until the outer one ends."""
    with phases.within("hardening"):
        phases.report("start")
        phases.item("sample", 3, 10)
        phases.item("validation", 7, replace=False)
        phases.report("images, batch", 1, 2)
    phases.report("evaluating")
    assert seen == [
        ("hardening: start", 0, 0),
        ("hardening: sample", 3, 10),
        ("hardening: sample 3 of 10: images, batch", 1, 2),
        ("evaluating", 0, 0),
    ]


def test_an_error_ends_a_phase(seen):
    """After an error inside it, a phase is not named any more."""
    with pytest.raises(ValueError, match="x"), phases.within("outer"):
        raise ValueError("x")
    phases.report("next")
    assert seen == [("next", 0, 0)]


def test_numbers_read_as_a_phrase():
    """A phase with its numbers reads `sample 3 of 10`, without a total `pass 7`, without numbers as it is."""
    assert [phases.number("sample", 3, 10), phases.number("pass", 7), phases.number("reading", 0)] == [
        "sample 3 of 10",
        "pass 7",
        "reading",
    ]
