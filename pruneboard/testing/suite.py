"""The contract suite: selects the checks that apply to a pruner, and runs them."""

from __future__ import annotations

import dataclasses
import time
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pruneboard.api import Pruner, Track
from pruneboard.errors import UnknownNameError
from pruneboard.processes import guardian
from pruneboard.processes.process_exit import exit_raises
from pruneboard.testing import advice, execution, interface, pair, results, side_effects
from pruneboard.testing.checks import Check, CheckSubject, Tier
from pruneboard.training import harness_guard, process_state

SUITE: tuple[Check, ...] = (
    *interface.CHECKS,
    *results.CHECKS,
    *side_effects.CHECKS,
    *execution.CHECKS,
    *advice.CHECKS,
)
"""Every check, in the order in which they run: an early failure often explains later ones."""

Outcome = Literal["passed", "failed", "skipped", "expected"]


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """A check of one pruner on one track; call it with the pruner.

    Attributes:
        check: the check.
        subject: the pruner and the track.
        shows_track: whether the name includes the track, because the pruner has several.
    """

    check: Check
    subject: CheckSubject
    shows_track: bool

    @property
    def name(self) -> str:
        """Name of the check, followed by the track in brackets if the pruner has several."""
        return f"{self.check.name}[{self.subject.track}]" if self.shows_track else self.check.name

    def __call__(self, pruner: Pruner[Any]) -> None:
        """Run the check.

        Raises:
            AssertionError: the pruner breaks the rule.
            unittest.SkipTest: the rule cannot be checked here.
        """
        same = pruner is self.subject.pruner
        # A faulty pruner must not affect how the next one is checked.
        with process_state.settings_restored(), harness_guard.harness_restored(), exit_raises():
            self.check.test(self.subject if same else CheckSubject(pruner, self.subject.track))

    def __repr__(self) -> str:
        """Return the name, which pytest shows."""
        return self.name


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        check: name of the check, followed by the track in brackets if the pruner has several.
        tier: `core` or `advice`.
        outcome: `passed`, `failed`, `skipped`, or `expected` for a failure that was listed as expected.
        message: what was found, or why the check was skipped or its failure expected; empty if it passed.
        rule: the rule.
        seconds: duration of the check.
    """

    check: str
    tier: Tier
    outcome: Outcome
    message: str
    rule: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return dataclasses.asdict(self)


def pruner_checks(pruner: Pruner[Any]) -> Iterator[BoundCheck]:
    """Yield the checks that apply to `pruner` according to its traits; checks that train come once per track.

    Call each check with the pruner. No check depends on the name of the method.
    """
    subjects = [CheckSubject(pruner, track) for track in _tracks(pruner)]
    for check in SUITE:
        for subject in subjects if check.trains else subjects[:1]:
            if _applies(check, subject):
                yield BoundCheck(check, subject, shows_track=check.trains and len(subjects) > 1)


def check_pruner(
    pruner: Pruner[Any],
    expected_failures: Mapping[str, str] | None = None,
    *,
    listener: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Run every check that applies and return the results; a broken rule raises nothing.

    Args:
        pruner: an instance, with the options to check.
        expected_failures: name of a check -> why its failure is accepted. If such a check passes, it counts as failed.
        listener: called with each result as soon as it is available.

    Raises:
        UnknownNameError: `expected_failures` names a check that does not exist.
    """
    expected = dict(expected_failures or {})
    with exit_raises():
        checks = list(pruner_checks(pruner))
    check_names(expected, checks)
    if any(bound.check.processes for bound in checks):
        pair.shared_pair()  # starts the processes, which import torch while the other checks run
    found = []
    for bound in checks:
        guardian.note("check started", result=_unfinished(bound))
        result = _result(bound, pruner, expected.get(bound.name, expected.get(bound.check.name)))
        guardian.note("check done", result=result.as_dict())
        listener(result)
        found.append(result)
    return found


def check_names(expected: Iterable[str], checks: Iterable[BoundCheck]) -> None:
    """Refuse names that do not occur in `checks`.

    Raises:
        UnknownNameError: with the most similar names.
    """
    known = {name for bound in checks for name in (bound.name, bound.check.name)}
    for name in expected:
        if name not in known:
            raise UnknownNameError("check", name, known, "`pruneboard check` lists them")


def _tracks(pruner: Pruner[Any]) -> list[Track]:
    known: list[Track] = [track for track in ("prune", "supermask") if track in pruner.tracks]
    return known or ["prune"]  # invalid tracks: `traits-are-constant` reports them


def _applies(check: Check, subject: CheckSubject) -> bool:
    try:
        return check.applies(subject)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - `traits` raises: the check reports it
        return True


def _result(bound: BoundCheck, pruner: Pruner[Any], expected: str | None) -> Result:
    start = time.perf_counter()
    outcome, message = _outcome(bound, pruner)
    if expected is not None:
        if outcome == "failed":
            outcome, message = "expected", f"{expected} ({message})"
        elif outcome == "passed":
            outcome, message = "failed", f"listed as an expected failure ({expected}), but it passes: unlist it"
    seconds = round(time.perf_counter() - start, 3)
    return Result(bound.name, bound.check.tier, outcome, message, bound.check.rule, seconds)


def _unfinished(bound: BoundCheck) -> dict[str, Any]:
    """Return the part of a result that is known before the check: what is reported if this process is lost."""
    return Result(bound.name, bound.check.tier, "failed", "it did not end", bound.check.rule, 0.0).as_dict()


def _outcome(bound: BoundCheck, pruner: Pruner[Any]) -> tuple[Outcome, str]:
    try:
        bound(pruner)
    except unittest.SkipTest as reason:
        return "skipped", _line(reason)
    except AssertionError as error:
        return "failed", _line(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever third-party code raises, also SystemExit, is a result
        return "failed", f"{type(error).__name__}: {_line(error)}"
    return "passed", ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
