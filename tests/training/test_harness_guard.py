"""What a method replaces in the harness is detected and undone."""

from __future__ import annotations

import pytest

from pruneboard import scores
from pruneboard.experiment import audit
from pruneboard.training import evaluate, harness_guard, loop, optim, state
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


def test_other_ways_to_replace_a_function_are_detected():
    """A constructor, a getter, default values, a builtin that a module hides and an inherited method are restored."""
    parts = (
        vars(state.Training)["images_trained"].fget.__code__,
        optim.schedule.__defaults__,
        evaluate.Metrics.__init__,
    )
    with harness_guard.harness_restored() as replaced:
        evaluate.Metrics.__init__ = print
        vars(state.Training)["images_trained"].fget.__code__ = (lambda self: 0).__code__
        optim.schedule.__defaults__ = (1,)
        audit.sum = print
        optim.GroupedOptimizer.zero_grad = lambda self: None
    names = ("evaluate.Metrics.__init__", "state.Training.images_trained", "optim.schedule")
    names = {*(f"training.{name}" for name in (*names, "optim.GroupedOptimizer.zero_grad")), "experiment.audit.sum"}
    assert set(replaced) == {f"pruneboard.{name}" for name in names}
    after = (
        vars(state.Training)["images_trained"].fget.__code__,
        optim.schedule.__defaults__,
        evaluate.Metrics.__init__,
    )
    assert parts == after
    assert not hasattr(audit, "sum")
