"""The exception tree, the exit codes, and the suggestions for a mistyped name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard import errors
from pruneboard.errors import PruneboardError, RunError, UnknownNameError, UsageError, did_you_mean

DRAWN = re.findall(r"^( {4,})(\w+Error) +(\d+)", errors.__doc__ or "", flags=re.MULTILINE)
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
NAMES = st.lists(st.text("abcdefg", min_size=1, max_size=6), max_size=30)


def depth(cls) -> int:
    """Return the number of steps from the base class."""
    return cls.__mro__.index(PruneboardError)


def test_every_error_is_drawn_in_the_tree():
    """The docstring draws all classes of the module and no others."""
    assert sorted(name for _, name, _ in DRAWN) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize(("indent", "name", "code"), DRAWN)
def test_the_drawn_tree_is_the_real_one(indent, name, code):
    """Each class has the exit code and the depth that the docstring shows."""
    cls = getattr(errors, name)
    assert cls.exit_code == int(code)
    assert depth(cls) == (len(indent) - 4) // 2


def test_the_exit_codes_are_those_of_the_protocol():
    """1 is a failed run, 2 wrong usage, 3 a failed check, 4 no record, and 75 an interruption."""
    assert {cls.exit_code for cls in CLASSES} == {1, 2, 3, 4, 75}
    assert all(cls.exit_code == 2 for cls in CLASSES if issubclass(cls, UsageError))


def test_each_kind_of_failed_run_has_its_own_status():
    """No two classes of failed runs have the same status in a record."""
    statuses = [cls.status for cls in CLASSES if issubclass(cls, RunError)]
    assert sorted(statuses) == ["diverged", "failed", "invalid", "oom"]


def test_a_similar_name_is_suggested():
    """A misspelled name gives the similar one, not the whole list."""
    assert did_you_mean("magnitud", ["dense", "magnitude", "probmask"]) == ": did you mean magnitude?"


def test_several_similar_names_are_all_suggested():
    """Names that are equally similar are suggested together."""
    assert did_you_mean("resnet1", ["resnet10", "resnet11"]) in {
        ": did you mean resnet10 or resnet11?",
        ": did you mean resnet11 or resnet10?",
    }


def test_a_short_list_is_shown_if_no_name_is_similar():
    """Without a similar name, up to twenty names are listed, sorted and once each."""
    assert did_you_mean("zzz", ["b", "a", "b"]) == ": choose from a, b"


def test_a_long_list_is_not_shown():
    """More than twenty names would not fit a readable line."""
    assert did_you_mean("zzz", [f"name{i}" for i in range(21)]) == ""


@given(st.text(max_size=8), NAMES)
@settings(deadline=None, max_examples=50)
def test_suggestions_are_always_allowed_names(name, allowed):
    """Every suggested or listed name exists."""
    found = did_you_mean(name, allowed)
    said = re.sub(r"^: (did you mean|choose from) |\?$", "", found)
    assert all(part in allowed for part in re.split(r", | or ", said) if found)


def test_the_message_of_an_unknown_name_is_complete():
    """One line names what was found, what is similar, and where to look."""
    error = UnknownNameError("recipe", "digit", ["digits", "cifar"], "see docs")
    assert str(error) == "unknown recipe 'digit': did you mean digits? see docs"
    assert error.exit_code == 2


# Errors of other processes and of the system


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_of_another_process_keeps_its_class_and_message(cls):
    """Every class of the tree is restored from its name, with the message and the exit code, but no other arguments."""
    error = errors.rebuilt(cls.__name__, "process 1: it failed")
    assert type(error) is cls
    assert str(error) == "process 1: it failed"
    assert error.exit_code == cls.exit_code


@pytest.mark.parametrize("name", ["KeyError", "did_you_mean", "Any", "no such class", ""])
def test_an_error_of_any_other_class_is_a_failed_run(name):
    """A name that is not an error class of pruneboard gives a RunError, whatever else has that name."""
    error = errors.rebuilt(name, "it failed")
    assert type(error) is RunError
    assert (str(error), error.status) == ("it failed", "failed")


def test_the_reason_of_a_system_error_does_not_repeat_the_path(tmp_path):
    """A message names the path once, before the reason."""
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "missing").read_bytes()
    assert errors.why(caught.value) == "No such file or directory"
    assert errors.why(OSError("no number")) == "no number"
