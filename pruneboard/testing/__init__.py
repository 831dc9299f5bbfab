"""The rules for pruners, as checks that you can run on your own method.

    for result in check_pruner(Mine(sparsity=0.9)):
        print(result.outcome, result.check, result.message)

`pruneboard check` prints the same results as a table, and `parametrize_with_checks` turns the checks into pytest cases.
Core checks are required for a place on a board, advice is not. The docstring of each check states its rule;
`docs/checks.md` lists them all.
"""

from __future__ import annotations

from pruneboard.testing.checks import Check, CheckFailedError, CheckSkippedError
from pruneboard.testing.parametrizing import parametrize_with_checks
from pruneboard.testing.suite import SUITE, BoundCheck, Result, check_pruner, pruner_checks

__all__ = [
    "SUITE",
    "BoundCheck",
    "Check",
    "CheckFailedError",
    "CheckSkippedError",
    "Result",
    "check_pruner",
    "parametrize_with_checks",
    "pruner_checks",
]
