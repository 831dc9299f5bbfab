"""The committed matrix of checks and faulty pruners, and the code that compares a pruner with its row."""

from __future__ import annotations

import copy
import csv
import unittest
from functools import cache
from pathlib import Path

from pruneboard.testing import SUITE, interface, pruner_checks, side_effects

MATRIX = Path(__file__).with_name("matrix.csv")
FAILED, PASSED, NOT_RUN = "x", ".", "-"
CHECKS = {check.name: check for check in SUITE if check.name != "runs-on-cuda"}
"""The checks whose result does not depend on the machine."""
WITH_PROCESSES = {name for name, check in CHECKS.items() if check.processes}
CHEAP = {check.name for check in (*interface.CHECKS, *side_effects.CHECKS)}
"""Checks that do not train, or that share one training."""


def name(pruner):
    """The name of the pruner's row."""
    return type(pruner).__name__


def outcomes(pruner, wanted):
    """Run the `wanted` checks: name -> (cell, error message); a failure on either track counts."""
    pruner = copy.copy(pruner)  # because some faulty pruners keep on themselves what they count
    found = dict.fromkeys(wanted, (NOT_RUN, ""))
    for bound in pruner_checks(pruner):
        if bound.check.name in wanted and found[bound.check.name][0] != FAILED:
            found[bound.check.name] = max(found[bound.check.name], outcome(bound, pruner))  # "-" < "." < "x"
    return found


def outcome(bound, pruner):
    """The cell and the error message of one check on one track."""
    try:
        bound(pruner)
    except unittest.SkipTest:
        return NOT_RUN, ""
    except Exception as error:  # noqa: BLE001 - a faulty pruner may raise anything
        return FAILED, str(error)
    return PASSED, ""


def cells(pruner, wanted):
    """Run the `wanted` checks: name -> cell."""
    return {check: cell for check, (cell, _) in outcomes(pruner, wanted).items()}


@cache
def matrix():
    """The committed matrix: row name -> check -> cell."""
    with MATRIX.open(newline="", encoding="utf-8") as file:
        return {row.pop("mutant"): row for row in csv.DictReader(file)}


def failed(row):
    """The checks that fail in a row, in the order of the suite."""
    return [check for check, cell in row.items() if cell == FAILED]


def assert_cells(pruner, wanted):
    """Assert that the `wanted` checks give the committed cells, and return their error messages."""
    row = matrix()[name(pruner)]
    found = outcomes(pruner, wanted)
    assert {check: cell for check, (cell, _) in found.items()} == {check: row[check] for check in wanted}, found
    return {check: message for check, (_, message) in found.items()}


def assert_row(pruner, check=None):
    """Assert the cells of the cheap checks and of `check`, by default the first other that fails; return the errors."""
    others = [other for other in failed(matrix()[name(pruner)]) if other not in CHEAP | WITH_PROCESSES]
    return assert_cells(pruner, CHEAP.union([check] if check else others[:1]))


def assert_found(pruner, messages):
    """Assert the pruner's row, and that the check in `messages` (row name -> check, text) reports the text."""
    check, text = messages[name(pruner)]
    found = assert_row(pruner, check)
    assert text in found[check], found[check]
