"""The contract between a pruner and the board, as checks that anybody can run on a method of their own.

    for result in check_pruner(Mine(sparsity=0.9)):
        print(result.outcome, result.check, result.message)

`pruneboard check` prints the same as a table, and `parametrize_with_checks` makes pytest cases of it. Core checks are
required for a place on a board; advice is not. The rules are the docstrings of the checks; `docs/checks.md` lists them.
"""

from __future__ import annotations

from pruneboard.testing.parametrizing import parametrize_with_checks
from pruneboard.testing.subject import Check, CheckFailedError, CheckSkippedError
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
