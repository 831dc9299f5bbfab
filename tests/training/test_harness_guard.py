"""What a method replaces in the harness is detected and undone."""

from __future__ import annotations

import pytest

from pruneboard import scores
from pruneboard.experiment import audit
from pruneboard.training import harness_guard, loop, optim
from runs import run


def test_replacements_are_detected_and_undone():
    """A function, its code, a constant, a method and an entry of a table are named, and restored after the block."""
    before = (audit.check_budget, scores.kept_of.__code__, loop.CHECK_EVERY, loop.LossMeter.add, dict(optim._RULES))
    with harness_guard.harness_restored() as replaced:
        audit.check_budget = print
        scores.kept_of.__code__ = (lambda n, sparsity: n).__code__
        loop.CHECK_EVERY = 0
        loop.LossMeter.add = print
        optim._RULES["sgd"] = print
    parts = (
        "experiment.audit.check_budget",
        "scores.kept_of",
        "training.loop.CHECK_EVERY",
        "training.loop.LossMeter.add",
    )
    assert set(replaced) == {f"pruneboard.{part}" for part in (*parts, "training.optim._RULES")}
    assert before == (
        audit.check_budget,
        scores.kept_of.__code__,
        loop.CHECK_EVERY,
        loop.LossMeter.add,
        dict(optim._RULES),
    )


def test_replacements_are_undone_after_an_error():
    """A function that is replaced before an error is restored too."""
    before = audit.check_budget
    with pytest.raises(ZeroDivisionError), harness_guard.harness_restored():
        fail_after_replacing()
    assert audit.check_budget is before


def fail_after_replacing():
    """Replace a function of the harness, and raise an error."""
    audit.check_budget = print
    raise ZeroDivisionError


def test_an_unchanged_harness_gives_no_finding(tmp_path):
    """A run, in which torch wraps the `step` of an optimizer, replaces nothing."""
    with harness_guard.harness_restored() as replaced:
        run(tmp_path)
    assert not replaced
