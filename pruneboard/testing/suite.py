"""The contract suite: which checks apply to a pruner, and what they came to."""

from __future__ import annotations

import dataclasses
import time
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pruneboard.api import Pruner, Track
from pruneboard.errors import UnknownNameError
from pruneboard.testing import advice, engines, interface, manners, pair, referee, results, surroundings
from pruneboard.testing.subject import Check, Subject, Tier

SUITE: tuple[Check, ...] = (
    *interface.CHECKS,
    *results.CHECKS,
    *manners.CHECKS,
    *engines.CHECKS,
    *advice.CHECKS,
)
"""Every check, in the order in which they are tried: what fails early explains what fails later."""

Outcome = Literal["passed", "failed", "skipped", "expected"]


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """A check of one pruner on one track; call it with the pruner.

    Attributes:
        check: the rule.
        subject: the pruner and the track.
        shows_track: whether the name says on which, because the pruner has several.
    """

    check: Check
    subject: Subject
    shows_track: bool

    @property
    def name(self) -> str:
        """The check's name, with the track in brackets where there are several."""
        return f"{self.check.name}[{self.subject.track}]" if self.shows_track else self.check.name

    def __call__(self, pruner: Pruner[Any]) -> None:
        """Try the rule.

        Raises:
            AssertionError: the pruner breaks it.
            unittest.SkipTest: it cannot be tried here.
        """
        same = pruner is self.subject.pruner
        # So that the next pruner meets the harness and the process that this one met.
        with surroundings.settings_kept(), referee.guarded():
            self.check.test(self.subject if same else Subject(pruner, self.subject.track))

    def __repr__(self) -> str:
        """Return the name, which is what pytest shows."""
        return self.name


@dataclass(frozen=True)
class Result:
    """What a check came to.

    Attributes:
        check: its name, with the track in brackets where the pruner has several.
        tier: `core` or `advice`.
        outcome: `passed`, `failed`, `skipped`, or `expected`: it failed, as was said it would.
        message: what was found, or why it was skipped or expected; empty where it passed.
        rule: the rule.
        seconds: what it took.
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
    """Yield the checks that apply to `pruner`, by its traits: those that train, once for each of its tracks.

    Each is to be called with the pruner. None depends on what the method is called.
    """
    subjects = [Subject(pruner, track) for track in _tracks(pruner)]
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
    """Try every check that applies and return what each came to; nothing is raised for a broken rule.

    Args:
        pruner: an instance, with the options to be checked.
        expected_failures: name of a check -> why its failure is accepted. One that passes all the same is a failure.
        listener: told each result as it is there.

    Raises:
        UnknownNameError: a name in `expected_failures` that no check has.
    """
    expected = dict(expected_failures or {})
    checks = list(pruner_checks(pruner))
    check_names(expected, checks)
    if any(bound.check.processes for bound in checks):
        pair.shared_pair()  # they load what they need while the other checks are tried
    found = []
    for bound in checks:
        result = _tried(bound, pruner, expected.get(bound.name, expected.get(bound.check.name)))
        listener(result)
        found.append(result)
    return found


def check_names(expected: Iterable[str], checks: Iterable[BoundCheck]) -> None:
    """Refuse a name that none of `checks` has.

    Raises:
        UnknownNameError: naming the nearest.
    """
    known = {name for bound in checks for name in (bound.name, bound.check.name)}
    for name in expected:
        if name not in known:
            raise UnknownNameError("check", name, known, "`pruneboard check` lists them")


def _tracks(pruner: Pruner[Any]) -> list[Track]:
    known: list[Track] = [track for track in ("prune", "supermask") if track in pruner.tracks]
    return known or ["prune"]  # so that the checks can say what is wrong with it


def _applies(check: Check, subject: Subject) -> bool:
    try:
        return check.applies(subject)
    except Exception:  # noqa: BLE001 - traits that raise: the check itself says so
        return True


def _tried(bound: BoundCheck, pruner: Pruner[Any], expected: str | None) -> Result:
    start = time.perf_counter()
    outcome, message = _outcome(bound, pruner)
    if expected is not None:
        if outcome == "failed":
            outcome, message = "expected", f"{expected} ({message})"
        elif outcome == "passed":
            outcome, message = "failed", f"listed as an expected failure ({expected}), and it passes: unlist it"
    took = round(time.perf_counter() - start, 3)
    return Result(bound.name, bound.check.tier, outcome, message, bound.check.rule, took)


def _outcome(bound: BoundCheck, pruner: Pruner[Any]) -> tuple[Outcome, str]:
    try:
        bound(pruner)
    except unittest.SkipTest as reason:
        return "skipped", _line(reason)
    except AssertionError as error:
        return "failed", _line(error)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is a result
        return "failed", f"{type(error).__name__}: {_line(error)}"
    return "passed", ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
