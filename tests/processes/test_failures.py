"""Reasons why a process ended: they are unchanged after sending, and the one that caused the others is chosen."""

from __future__ import annotations

import itertools
import json

import pytest

from pruneboard import errors
from pruneboard.errors import DataError, InterruptedRunError, LostPeerError, PruneboardError, RunError
from pruneboard.processes.failures import MAX_MESSAGE, Failure, root_cause

KINDS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, PruneboardError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_class_and_message(kind):
    """Every error of pruneboard comes back from JSON as the same class with the same message and rank."""
    error = kind.__new__(kind)
    error.args = ("text",)
    sent = Failure.from_json(Failure.of(error, 3).to_json().encode())
    assert (type(sent.error()), str(sent.error()), sent.rank) == (kind, "text", 3)
    assert str(sent.error("process 3: ")) == "process 3: text"


def test_other_exceptions_are_failed_runs():
    """An exception of another library becomes a `RunError` that names its class, and Ctrl-C an interruption."""
    assert Failure.of(ZeroDivisionError("why"), 0) == Failure(0, "RunError", "ZeroDivisionError: why")
    assert type(Failure.of(KeyboardInterrupt(), 0).error()) is InterruptedRunError


@pytest.mark.parametrize("name", ["SystemExit", "Any", "difflib", "annotations", "", "did_you_mean"])
def test_an_unknown_class_is_a_failed_run(name):
    """A name that is not one of pruneboard's errors, whatever else it names, gives a `RunError`."""
    assert type(Failure(0, name, "text").error()) is RunError


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"null", b'{"rank": 0}', b'{"rank": [], "kind": ""}'])
def test_invalid_json_is_refused(text):
    """Whatever is not the JSON form of a failure raises one of the three documented errors."""
    with pytest.raises((ValueError, TypeError, LookupError)):
        Failure.from_json(text)


def test_long_messages_are_cut():
    """The JSON form holds the first `MAX_MESSAGE` characters of a message."""
    found = json.loads(Failure(0, "RunError", "ab" * MAX_MESSAGE).to_json())["message"]
    assert found == "ab" * (MAX_MESSAGE // 2)


def test_the_root_cause_does_not_depend_on_the_order():
    """A killed or stopped process comes first, then one that failed by itself; a noticed loss comes last."""
    killed, failed, noticed = (
        Failure.of(kind("why"), rank) for rank, kind in enumerate((InterruptedRunError, DataError, LostPeerError))
    )
    for order in itertools.permutations((killed, failed, noticed)):
        assert root_cause(order) is killed
    for order in itertools.permutations((failed, noticed)):
        assert root_cause(order) is failed
    assert root_cause([noticed]) is noticed
    assert [failure.only_noticed for failure in (killed, failed, noticed)] == [False, False, True]
