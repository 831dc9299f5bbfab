"""The building blocks of the suite: a check, and the pruner on one track that it examines."""

from __future__ import annotations

import dataclasses
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pruneboard import scores
from pruneboard.api import Pruner, Track, Traits
from pruneboard.testing import observation
from pruneboard.testing.observation import Observations
from pruneboard.testing.trial import Trial, TrialResult

Tier = Literal["core", "advice"]


class CheckFailedError(AssertionError):
    """A pruner breaks a rule; the message says what was found and what to do."""


class CheckSkippedError(unittest.SkipTest):
    """A rule cannot be checked here; the message says why. pytest reports the case as skipped."""


@dataclass(frozen=True, eq=False)
class CheckSubject:
    """A pruner on one track. Caches the trial training that several checks examine.

    Attributes:
        pruner: the pruner, with the options to check.
        track: `prune` or `supermask`.
    """

    pruner: Pruner[Any]
    track: Track

    @property
    def traits(self) -> Traits:
        """The traits that the pruner declares for this track."""
        return self.pruner.traits(self.track)

    @property
    def takes_steps(self) -> bool:
        """Whether training takes any step; it takes none if the weights are frozen and the mask is final at step 0."""
        return self.track == "prune" or self.traits.harden_at > 0

    def at(self, sparsity: float) -> CheckSubject:
        """Return the same pruner at another sparsity.

        Raises:
            CheckSkippedError: the pruner refuses that sparsity.
        """
        try:
            return CheckSubject(dataclasses.replace(self.pruner, sparsity=sparsity), self.track)
        except (TypeError, ValueError) as error:
            raise CheckSkippedError(f"the pruner refuses sparsity {sparsity}: {error}") from None

    def trial(self, **changes: Any) -> Trial:
        """Return a trial training of the pruner, with these fields of `Trial` changed."""
        return Trial(self.pruner, self.track, **changes)

    @property
    def observed(self) -> Observations:
        """What was observed in a trial training with default settings.

        Raises:
            BaseException: the error that ended the training; every check that needs the training raises it.
        """
        if isinstance(self._observed, BaseException):
            raise self._observed
        return self._observed

    @cached_property
    def _observed(self) -> Observations | BaseException:
        try:
            return observation.observe(self.trial())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - cached too, or else every check would repeat the failing training
            return error

    @property
    def result(self) -> TrialResult:
        """The result of that training."""
        return self.observed.result

    def budget(self, result: TrialResult) -> int:
        """Return how many positions of that network the pruner should keep."""
        return scores.kept_of(sum(count.n for count in result.counts), self.pruner.sparsity)


@dataclass(frozen=True)
class Check:
    """One rule, and the code that checks it.

    Attributes:
        tier: `core` (required for a place on a board) or `advice`.
        test: raises an error if the rule is broken. Its name is the name of the check, its docstring the rule.
        applies: whether the rule applies to a pruner on a track, according to its traits.
        when: the same condition in words; empty if it always applies.
        trains: whether the check trains, and therefore runs once per track.
        processes: whether the check uses the pair of processes (`pruneboard.testing.pair`).
    """

    tier: Tier
    test: Callable[[CheckSubject], None]
    applies: Callable[[CheckSubject], bool]
    when: str
    trains: bool
    processes: bool

    @property
    def name(self) -> str:
        """The name, as used in `expected_failures`."""
        return self.test.__name__.replace("_", "-")

    @property
    def rule(self) -> str:
        """The rule, in one or two sentences."""
        return " ".join((self.test.__doc__ or "").split())


def check(
    tier: Tier = "core",
    *,
    applies: Callable[[CheckSubject], bool] = lambda _: True,
    when: str = "",
    trains: bool = True,
    processes: bool = False,
) -> Callable[[Callable[[CheckSubject], None]], Check]:
    """Turn the decorated function into a `Check`; the arguments are its attributes."""
    return lambda test: Check(tier, test, applies, when, trains, processes)


def require(holds: bool, message: str) -> None:  # noqa: FBT001 - an assertion
    """Raise `CheckFailedError` with `message` unless `holds`."""
    if not holds:
        raise CheckFailedError(message)
