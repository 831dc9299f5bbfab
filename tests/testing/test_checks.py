"""The building blocks of the suite: names and rules of checks, and the cached training of a subject."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sound import Sound, SoundScores

from pruneboard.api import Traits
from pruneboard.testing import CheckFailedError, CheckSkippedError
from pruneboard.testing.checks import CheckSubject, check, require


@check("advice", when="always", trains=False)
def says_hello(subject):
    """Says hello.

    In two
    paragraphs.
    """
    raise CheckFailedError(subject.track)


def test_a_check_is_named_and_described_by_its_function():
    """Name and rule come from the function's name and docstring, and its code still runs."""
    assert (says_hello.name, says_hello.rule) == ("says-hello", "Says hello. In two paragraphs.")
    assert (says_hello.tier, says_hello.trains, says_hello.processes) == ("advice", False, False)
    with pytest.raises(CheckFailedError, match="prune"):
        says_hello.test(CheckSubject(Sound(sparsity=0.9), "prune"))


def test_a_requirement_that_does_not_hold_fails():
    """`require` raises its message if the condition is false, and nothing otherwise."""
    require(True, "not raised")
    with pytest.raises(CheckFailedError, match="raised"):
        require(False, "raised")


@dataclass(frozen=True, kw_only=True)
class Counting(Sound):
    """Counts trainings (2017), and refuses to train at 0.5."""

    trainings = []  # noqa: RUF012 - shared on purpose

    def traits(self, track):
        return Traits(harden_at=0.75)

    def before_step(self, layers, at):
        if at.step == 0:
            self.trainings.append(self.sparsity)
        if self.sparsity == 0.5:
            raise RuntimeError("half is not allowed")
        super().before_step(layers, at)


def test_a_subject_trains_once():
    """Repeated access to the result uses one training; the budget is the number of weights to keep."""
    subject = CheckSubject(Counting(sparsity=0.8), "prune")
    assert subject.result is subject.result
    assert subject.budget(subject.result) == 1568 - round(0.8 * 1568)
    assert Counting.trainings.count(0.8) == 1


def test_a_failing_training_is_not_repeated():
    """The error that ends a training is raised for every check, after one attempt."""
    subject = CheckSubject(Counting(sparsity=0.5), "prune")
    for _ in range(2):
        with pytest.raises(Exception, match="half is not allowed"):
            _ = subject.observed
    assert Counting.trainings.count(0.5) == 1


def test_a_refused_sparsity_skips_the_check():
    """A pruner at another sparsity is the same otherwise; a sparsity that it refuses skips the check."""
    subject = CheckSubject(SoundScores(sparsity=0.9), "supermask")
    assert subject.at(0.25).pruner == SoundScores(sparsity=0.25)
    assert subject.at(0.25).track == "supermask"
    with pytest.raises(CheckSkippedError, match=r"the pruner refuses sparsity 1\.5: "):
        subject.at(1.5)


def test_only_a_supermask_that_is_final_at_once_takes_no_steps():
    """Training takes steps on the prune track, and on the supermask track unless the mask is final at step 0."""

    @dataclass(frozen=True, kw_only=True)
    class Fixed(SoundScores):
        """Final at once (2020)."""

        def traits(self, track):
            return Traits(harden_at=0.0)

    assert CheckSubject(Fixed(sparsity=0.9), "prune").takes_steps
    assert not CheckSubject(Fixed(sparsity=0.9), "supermask").takes_steps
    assert CheckSubject(SoundScores(sparsity=0.9), "supermask").takes_steps
