"""Which check finds which fault: `matrix.csv` in this folder has a row per faulty pruner and a column per check.

By default, each pruner is checked with the cheap checks and one other that fails, in the test file of the module
whose checks find it; the whole matrix is slow. `PRUNEBOARD_WRITE_DOCS=1 pytest tests/testing/test_mutants.py` rewrites
the matrix.
"""

from __future__ import annotations

import csv
import io
import os

import mutants_chance
import pytest
from matrix_cases import (
    CHEAP,
    CHECKS,
    FAILED,
    MATRIX,
    PASSED,
    WITH_PROCESSES,
    assert_cells,
    assert_row,
    cells,
    failed,
    matrix,
    name,
)
from mutants import ADVICE, MUTANTS, ON_CUDA
from sound import SOUND

from pruneboard.testing import SUITE, pair

WRITES = bool(os.environ.get("PRUNEBOARD_WRITE_DOCS"))
WHOLE = pytest.mark.skipif(False, reason="the matrix is rewritten") if WRITES else pytest.mark.slow
NEVER_ALONE = {
    *("keeps-what-it-says", "leaves-the-process", "evaluation-is-deterministic", "pruned-weights-stay-pruned"),
    *("gate-keeps-shape-and-dtype", "leaves-the-optimizer"),
}
"""Checks that find no fault alone: other checks count the network too, and the loop itself refuses a changed process, a
changed optimizer, a mask of another shape, and a mask that changes in evaluation or after hardening, so that every
check that trains fails.
"""


@WHOLE
def test_the_whole_matrix():
    """Every check of every mutant gives the committed result; runs first, because the other tests read the matrix."""
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


@pytest.mark.parametrize("pruner", [*SOUND, *mutants_chance.MUTANTS], ids=name)
def test_dependence_on_random_states_processes_and_names_is_found(pruner):
    """The checks of its row find each pruner that depends on these, and the correct pruners pass."""
    assert_row(pruner)


def test_each_check_with_processes_finds_a_mutant():
    """The checks that use a pair of processes accept the correct pruners, and each finds the last of its mutants."""
    try:
        for pruner in SOUND:
            assert_cells(pruner, WITH_PROCESSES)
        for check in WITH_PROCESSES:
            assert_cells([pruner for pruner in MUTANTS if check in failed(matrix()[name(pruner)])][-1], {check})
    finally:
        pair.shared_pair().close()


def test_the_matrix_has_every_mutant_and_every_check():
    """The rows are the correct pruners, then the mutants; the columns are the checks in the order of the suite."""
    assert list(matrix()) == [name(pruner) for pruner in (*SOUND, *MUTANTS)]
    assert all(list(row) == list(CHECKS) for row in matrix().values())


def test_core_checks_find_every_fault_and_accept_every_correct_pruner():
    """Every mutant fails a core check, except those that only advice is about; the correct pruners fail none."""
    core = {check.name for check in SUITE if check.tier == "core"}
    for pruner in MUTANTS:
        found = {check in core for check in failed(matrix()[name(pruner)])}
        assert found == {False} if pruner in ADVICE else True in found, name(pruner)
    assert not any(failed(matrix()[name(pruner)]) for pruner in SOUND)


def test_no_check_is_redundant():
    """Every check finds a fault, and every check but those above finds a fault that no other check finds."""
    found = [failed(row) for row in matrix().values()]
    assert set().union(*found) == set(CHECKS)
    assert set().union(*(names for names in found if len(names) == 1)) == set(CHECKS) - NEVER_ALONE


def test_faults_on_cuda_do_not_show_on_a_cpu():
    """A pruner that creates tensors on the CPU passes on a CPU."""
    for pruner in ON_CUDA:
        assert FAILED not in cells(pruner, CHEAP | {"keeps-what-it-says"}).values()


def test_faults_on_cuda_are_found_there(cuda):
    """On a CUDA device, such a pruner fails, and the correct pruners pass."""
    for pruner in ON_CUDA:
        assert cells(pruner, {"runs-on-cuda"}) == {"runs-on-cuda": FAILED}
    for pruner in SOUND:
        assert cells(pruner, {"runs-on-cuda"}) == {"runs-on-cuda": PASSED}
