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
    """Count the steps from the base of the tree."""
    return cls.__mro__.index(PruneboardError)


def test_every_error_is_drawn_in_the_tree():
    """The docstring draws all classes of the module and no others."""
    assert sorted(name for _, name, _ in DRAWN) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize(("indent", "name", "code"), DRAWN)
def test_the_tree_as_drawn_is_the_tree_as_built(indent, name, code):
    """Each class has the exit code and the depth that the docstring shows."""
    cls = getattr(errors, name)
    assert cls.exit_code == int(code)
    assert depth(cls) == (len(indent) - 4) // 2


def test_the_exit_codes_are_those_of_the_protocol():
    """1 a run failed, 2 wrong usage, 3 a check failed, 4 no record, 75 interrupted."""
    assert {cls.exit_code for cls in CLASSES} == {1, 2, 3, 4, 75}
    assert all(cls.exit_code == 2 for cls in CLASSES if issubclass(cls, UsageError))


def test_each_failure_of_a_run_has_a_status_of_its_own():
    """No two kinds of failed run would read the same in a record."""
    statuses = [cls.status for cls in CLASSES if issubclass(cls, RunError)]
    assert sorted(statuses) == ["diverged", "failed", "invalid", "oom"]


def test_a_near_name_is_suggested():
    """A typo gives the name that was meant, not the whole list."""
    assert did_you_mean("magnitud", ["dense", "magnitude", "probmask"]) == ": did you mean magnitude?"


def test_several_near_names_are_all_suggested():
    """Names that are equally near stand side by side."""
    assert did_you_mean("resnet1", ["resnet10", "resnet11"]) in {
        ": did you mean resnet10 or resnet11?",
        ": did you mean resnet11 or resnet10?",
    }


def test_a_short_list_is_shown_whole_when_nothing_is_near():
    """Where no name is near, up to twenty are listed, sorted and once each."""
    assert did_you_mean("zzz", ["b", "a", "b"]) == ": choose from a, b"


def test_a_long_list_is_not_shown():
    """More than twenty names would not be one readable line."""
    assert did_you_mean("zzz", [f"name{i}" for i in range(21)]) == ""


@given(st.text(max_size=8), NAMES)
@settings(deadline=None, max_examples=50)
def test_suggestions_are_always_allowed_names(name, allowed):
    """Whatever is suggested or listed exists."""
    found = did_you_mean(name, allowed)
    said = re.sub(r"^: (did you mean|choose from) |\?$", "", found)
    assert all(part in allowed for part in re.split(r", | or ", said) if found)


def test_an_unknown_name_says_kind_name_remedy_and_hint():
    """The one line holds what was found, what is near, and where to look."""
    error = UnknownNameError("recipe", "digit", ["digits", "cifar"], "see docs")
    assert str(error) == "unknown recipe 'digit': did you mean digits? see docs"
    assert error.exit_code == 2
