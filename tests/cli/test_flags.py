"""Shared flags: method options as KEY=VALUE, and shell completion of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneboard.cli import flags
from pruneboard.errors import UsageError

names = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
values = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=9)


@given(st.dictionaries(names, values))
def test_options_are_read_back(options):
    """Any dictionary of options, written as KEY=VALUE, is read back; a value may contain `=`."""
    assert flags.parse_options(f"{name}={value}" for name, value in options.items()) == options


def test_hyphens_in_names_become_underscores():
    """Option names may be written with hyphens, and spaces around name and value are ignored."""
    assert flags.parse_options(["prune-at = some-value "]) == {"prune_at": "some-value"}


@pytest.mark.parametrize("text", ["", "lr", "=1", "lr 0.1"])
def test_anything_else_is_refused(text):
    """An option without a name or `=` is an error that shows what was found."""
    with pytest.raises(UsageError, match="--option takes KEY=VALUE") as caught:
        flags.parse_options(["lr=1", text])
    assert repr(text) in str(caught.value)


def test_completion_offers_the_names_with_the_prefix():
    """A word is completed to the names that start with it, in their order."""
    complete = flags.complete(lambda: ["snip", "random", "rigl"])
    assert [item.value for item in complete(None, None, "r")] == ["random", "rigl"]
    assert [item.value for item in complete(None, None, "")] == ["snip", "random", "rigl"]
    assert complete(None, None, "x") == []


def test_method_names_are_sorted_and_distinct(site):
    """Every installed method is offered once, third-party ones too, even if two distributions claim its name."""
    site.add("first", method="zebra")
    site.add("second", method="zebra")
    found = flags.method_names()
    assert found == sorted(set(found))
    assert {"magnitude", "zebra"} <= set(found)
