"""What a check looks at: a pruner on one track, and what its trainings came to."""

from __future__ import annotations

import dataclasses
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pruneboard import scores
from pruneboard.api import Pruner, Track, Traits
from pruneboard.testing import watching
from pruneboard.testing.bench import Bench, Trained
from pruneboard.testing.watching import Findings

Tier = Literal["core", "advice"]

POINTS = (0.5, 0.777)
"""Sparsities at which counts are checked besides the pruner's own; at one no layer's share is a whole number."""


class CheckFailedError(AssertionError):
    """A pruner breaks a rule; the message says what was found and what to do."""


class CheckSkippedError(unittest.SkipTest):
    """A rule cannot be tried here; the message says why. pytest counts it as skipped."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A pruner on one track. Trainings that several checks look at are done once.

    Attributes:
        pruner: with the options under test.
        track: `prune` or `supermask`.
    """

    pruner: Pruner[Any]
    track: Track

    @property
    def traits(self) -> Traits:
        """What the pruner declares."""
        return self.pruner.traits(self.track)

    @property
    def learns(self) -> bool:
        """Whether any step is taken: none is where weights are frozen and the mask is final from the start."""
        return self.track == "prune" or self.traits.harden_at > 0

    def at(self, sparsity: float) -> Subject:
        """Return the same pruner at another sparsity.

        Raises:
            CheckSkippedError: it refuses that sparsity.
        """
        try:
            return Subject(dataclasses.replace(self.pruner, sparsity=sparsity), self.track)
        except (TypeError, ValueError) as error:
            raise CheckSkippedError(f"it does not take sparsity {sparsity}: {error}") from None

    def bench(self, **changes: Any) -> Bench:
        """Return the way to train it, with some things changed."""
        return Bench(self.pruner, self.track, **changes)

    @property
    def watched(self) -> Findings:
        """What was seen to go wrong in a plain training.

        Raises:
            Exception: whatever ended the training, for every check that looks at it.
        """
        if isinstance(self._watched, Exception):
            raise self._watched
        return self._watched

    @cached_property
    def _watched(self) -> Findings | Exception:
        try:
            return watching.watch(self.bench())
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises would be raised again each time
            return error

    @property
    def trained(self) -> Trained:
        """What came out of that training."""
        return self.watched.trained

    def budget(self, trained: Trained) -> int:
        """Return how many positions the harness asks to be kept in that network."""
        return scores.kept_of(sum(count.n for count in trained.counts), self.pruner.sparsity)


@dataclass(frozen=True)
class Check:
    """One rule, and how it is tried.

    Attributes:
        tier: `core`, without which there is no place on a board, or `advice`.
        test: raises what it finds; its name is the check's, its docstring the rule.
        applies: whether the rule means something for this pruner and track, by its traits.
        when: the same in words; empty where it always does.
        trains: whether it trains, and so is tried on every track.
        processes: whether it takes the pair of processes (`pruneboard.testing.pair`).
    """

    tier: Tier
    test: Callable[[Subject], None]
    applies: Callable[[Subject], bool]
    when: str
    trains: bool
    processes: bool

    @property
    def name(self) -> str:
        """The name, as in `expected_failures`."""
        return self.test.__name__.replace("_", "-")

    @property
    def rule(self) -> str:
        """The rule, in a sentence or two."""
        return " ".join((self.test.__doc__ or "").split())


def check(
    tier: Tier = "core",
    *,
    applies: Callable[[Subject], bool] = lambda _: True,
    when: str = "",
    trains: bool = True,
    processes: bool = False,
) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a check of the function below."""
    return lambda test: Check(tier, test, applies, when, trains, processes)


def require(holds: bool, message: str) -> None:  # noqa: FBT001 - an assertion
    """Raise `CheckFailedError` with `message` unless `holds`."""
    if not holds:
        raise CheckFailedError(message)
