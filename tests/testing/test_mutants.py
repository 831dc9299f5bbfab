"""Which check finds which fault: `matrix.csv` beside this file, a row per broken pruner and a column per check.

By default each mutant is tried with the first checks that find it and with those that cost next to nothing; the whole
matrix is slow. `PRUNEBOARD_WRITE_DOCS=1 pytest tests/testing/test_mutants.py` writes it anew.
"""

from __future__ import annotations

import csv
import io
import os
import unittest
from functools import cache
from pathlib import Path

import pytest
from mutants import ADVICE, MUTANTS, ON_CUDA
from sound import SOUND

from pruneboard.testing import SUITE, interface, manners, pair, pruner_checks

MATRIX = Path(__file__).with_name("matrix.csv")
WRITES = bool(os.environ.get("PRUNEBOARD_WRITE_DOCS"))
WHOLE = pytest.mark.skipif(False, reason="it is to be written") if WRITES else pytest.mark.slow
KILLED, PASSED, NOT_TRIED = "x", ".", "-"
CHECKS = {check.name: check for check in SUITE if check.name != "runs-on-cuda"}
"""Those that come to the same on every machine."""
TOGETHER = {name for name, check in CHECKS.items() if check.processes}
CHEAP = {check.name for check in (*interface.CHECKS, *manners.CHECKS)}
"""Those that train once for all of them, or not at all."""
FEW = 2
"""Checks of a row that are tried by default besides the cheap ones, where many find a fault."""
NO_SOLE_KILLER = {"keeps-what-it-says"}
"""Zeros that a mask keeps are found wherever a network is counted."""


def name(pruner):
    """What a row is called."""
    return type(pruner).__name__


def cells(pruner, wanted):
    """Try the `wanted` checks: name -> cell; a fault on either track is one."""
    found = dict.fromkeys(wanted, NOT_TRIED)
    for bound in pruner_checks(pruner):
        if bound.check.name in wanted and found[bound.check.name] != KILLED:
            found[bound.check.name] = max(found[bound.check.name], outcome(bound, pruner))  # "-" < "." < "x"
    return found


def outcome(bound, pruner):
    """One cell, on one track."""
    try:
        bound(pruner)
    except unittest.SkipTest:
        return NOT_TRIED
    except Exception:  # noqa: BLE001 - whatever a broken pruner raises is its end
        return KILLED
    return PASSED


@cache
def matrix():
    """The committed matrix: mutant -> check -> cell."""
    with MATRIX.open(newline="", encoding="utf-8") as file:
        return {row.pop("mutant"): row for row in csv.DictReader(file)}


def kills(row):
    """The checks that find a fault, in the order of the suite."""
    return [check for check, cell in row.items() if cell == KILLED]


def agrees(pruner, wanted):
    """Assert that the `wanted` cells of a row come out as they are committed."""
    row = matrix()[name(pruner)]
    assert cells(pruner, wanted) == {check: row[check] for check in wanted}


@WHOLE
def test_the_whole_matrix():
    """Every check of every mutant comes out as committed; it stands first, for the others to read what it wrote."""
    try:
        rows = {name(pruner): cells(pruner, list(CHECKS)) for pruner in (*SOUND, *MUTANTS)}
    finally:
        pair.shared_pair().close()
    text = io.StringIO()
    writer = csv.DictWriter(text, ["mutant", *CHECKS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"mutant": mutant, **row} for mutant, row in rows.items())
    if WRITES:
        MATRIX.write_text(text.getvalue(), encoding="utf-8")
    assert MATRIX.read_text(encoding="utf-8") == text.getvalue()


@pytest.mark.parametrize("pruner", [*SOUND, *MUTANTS], ids=name)
def test_a_mutant_is_killed_by_the_checks_of_its_row(pruner):
    """The first checks that find a fault find it again, and those that cost next to nothing find nothing else."""
    others = [check for check in kills(matrix()[name(pruner)]) if check not in CHEAP | TOGETHER]
    agrees(pruner, CHEAP.union(others[:FEW]))


def test_mutants_are_killed_by_the_checks_with_processes():
    """The same for the checks that take a pair of processes, which is one for all mutants."""
    try:
        for pruner in (*SOUND, *MUTANTS):
            wanted = kills(matrix()[name(pruner)]) if pruner in MUTANTS else TOGETHER
            agrees(pruner, TOGETHER.intersection(wanted))
    finally:
        pair.shared_pair().close()


def test_the_matrix_has_every_mutant_and_every_check():
    """Its rows are the mutants, the sound ones first, and its columns the checks, in the order of the suite."""
    assert list(matrix()) == [name(pruner) for pruner in (*SOUND, *MUTANTS)]
    assert all(list(row) == list(CHECKS) for row in matrix().values())


def test_no_mutant_survives_and_no_sound_pruner_dies():
    """A core check finds every fault, but for those that only advice is about; the sound pruners pass all."""
    core = {check.name for check in SUITE if check.tier == "core"}
    for pruner in MUTANTS:
        found = {check in core for check in kills(matrix()[name(pruner)])}
        assert found == {False} if pruner in ADVICE else True in found, name(pruner)
    assert not any(kills(matrix()[name(pruner)]) for pruner in SOUND)


def test_no_check_is_one_too_many():
    """Without any one check the matrix would be another: each finds a fault, and but for one a fault no other finds."""
    found = [kills(row) for row in matrix().values()]
    assert set().union(*found) == set(CHECKS)
    assert set().union(*(names for names in found if len(names) == 1)) == set(CHECKS) - NO_SOLE_KILLER


def test_what_fails_on_cuda_only_is_sound_elsewhere():
    """Tensors made on the CPU are a fault that no check finds on a CPU."""
    for pruner in ON_CUDA:
        assert KILLED not in cells(pruner, CHEAP | {"keeps-what-it-says"}).values()


@pytest.mark.gpu
def test_what_fails_on_cuda_fails_there():
    """On a CUDA device such tensors are found, and the sound pruners pass."""
    for pruner in ON_CUDA:
        assert cells(pruner, {"runs-on-cuda"}) == {"runs-on-cuda": KILLED}
    for pruner in SOUND:
        assert cells(pruner, {"runs-on-cuda"}) == {"runs-on-cuda": PASSED}
