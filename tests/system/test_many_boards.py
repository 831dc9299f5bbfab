"""Tests that the work of a comparison grows in proportion to the number of records, however little they share.

`benchmarks/leaderboard/scale.py` measures seconds and memory. Here, calls of functions are counted: they do not depend
on the machine.
"""

from __future__ import annotations

import sys

import pytest

from fake_records import record
from leaderboard_cases import whole
from pruneboard import report
from pruneboard.records.schema import fingerprint


def own_board(number):
    """A board that shares data set, model and track with all others, and has fields that no other has."""
    return record(seed=number, **{f"board__own{number}_{part}": number for part in range(3)})


def own_failure(number):
    """Of two runs, the second failed on the same board before its number of steps was known."""
    made = own_board(number // 2)
    if number % 2:
        made = record(status="failed", seed=-1) | {"board": made["board"], "hash": f"{number:064x}"}
        del made["board"]["steps"]
        made["board"]["fingerprint"] = fingerprint(made["board"])
    return made


def own_options(number):
    """A run of one method and board, with options and a sparsity that no other run has."""
    return record(sparsity=(number + 1) / 2000, method__options={f"option{number}": number, "lr": number})


def calls(make, size):
    """Return the number of function calls of building and showing a leaderboard of `size` records."""
    made = [make(number) for number in range(size)]
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        built = whole(made)
        for show in (report.terminal, report.markdown, report.latex, report.csv, report.json):
            show(built)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", [own_board, own_failure, pytest.param(own_options, marks=pytest.mark.slow)])
def test_twice_the_records_are_twice_the_work(make):
    """Neither boards that share no field nor option sets that share no option are compared in pairs."""
    calls(make, 4)  # imports and caches
    assert calls(make, 240) < 2.2 * calls(make, 120)
