"""Advice: each mutant that ignores it is found, with a message that says what to do."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_interface import ADVICE

MESSAGES = {
    "Uncited": ("cites-its-source", "an arXiv number, a DOI, a link or a year"),
    "Unexplained": ("explains-its-options", "the docstring does not explain patience"),
    "NeedsAWeightPerLayer": ("reaches-extreme-sparsity", "AssertionError"),
    "DividesTheBudget": ("runs-on-a-short-budget", "ZeroDivisionError"),
    "ShowsTensors": ("shows-numbers", "not a finite Python int or float: mean"),
    "ShowsNaN": ("shows-numbers", "not a finite Python int or float: threshold"),
    "SkipsBaseValidation": ("checks-its-options", "sparsity -0.1 is accepted: call super().__post_init__() first"),
}


@pytest.mark.parametrize("pruner", ADVICE, ids=name)
def test_ignored_advice_is_found(pruner):
    """The check of its row fails for each pruner, and the message names the fault."""
    assert_found(pruner, MESSAGES)
