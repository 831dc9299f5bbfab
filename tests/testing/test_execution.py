"""Checks of ways to run: faults that show only under ZeRO, in channels-last, under autocast or on another device."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_execution import MUTANTS
from sound import Sound

from pruneboard.testing import execution

MESSAGES = {
    "WritesInPlace": ("writes-survive-the-next-step", "was written in place"),
    "WritesThroughView": ("runs-in-channels-last", "view"),
    "WritesThroughCopy": ("runs-in-channels-last", "positions are kept where the budget is"),
    "CountsDistinctValues": ("runs-under-autocast", "positions are kept where the budget is"),
}


@pytest.mark.parametrize("pruner", MUTANTS, ids=name)
def test_faults_of_one_way_to_run_are_found(pruner):
    """The check of its row fails for each pruner, and the message says what is wrong."""
    assert_found(pruner, MESSAGES)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    """The tasks of the resume check give one hash for a correct pruner: whole, and resumed from each saved step."""
    pruner = Sound(sparsity=0.9)
    whole = execution.train_and_save(pruner, "prune", str(tmp_path), [6, 14])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["14", "6"]
    assert {execution.resume(pruner, "prune", str(tmp_path / step)) for step in ("6", "14")} == {whole}
