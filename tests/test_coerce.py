"""Conversion of values from TOML files and the command line, and errors of one line for values of other types."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages import message
from pruneboard.coerce import build_dataclass, check_choice, convert, parse_toml, read_toml
from pruneboard.errors import UnknownNameError
from pruneboard.spec import RunSpec, TrackName

FEW = settings(deadline=None, max_examples=60)


@dataclass(frozen=True)
class Example:
    """A dataclass with every kind of field."""

    count: int
    rate: float = 0.5
    fast: bool = False
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    names: tuple[str, ...] = ()
    derived: int = field(default=7, init=False)


# Dataclasses


def test_values_are_converted_to_the_types_of_the_fields():
    """Text becomes the number, truth value or name that its field declares; a tuple passes as it is."""
    values = {"count": "3", "rate": 1, "fast": "true", "mode": "b", "limit": "4", "names": ("x",)}
    assert build_dataclass(Example, values, "a file") == Example(3, 1.0, True, "b", 4, ("x",))


def test_fields_without_a_value_keep_their_defaults():
    """Only a field without default is required."""
    assert build_dataclass(Example, {"count": 1}, "a file") == Example(1)
    assert message(lambda: build_dataclass(Example, {}, "a file")) == "a file lacks count"


@pytest.mark.parametrize(("name", "near"), [("coumt", "did you mean count?"), ("derived", "")])
def test_an_unknown_key_is_an_error(name, near):
    """A mistyped key and a field that is not an argument are rejected, with the similar name."""
    text = message(lambda: build_dataclass(Example, {"count": 1, name: 2}, "a file"), UnknownNameError)
    assert text.startswith(f"unknown key in a file: {name!r}")
    assert near in text


def test_a_value_of_the_wrong_type_is_named_with_its_source():
    """The message names the field, the source, the expected type and the value."""
    text = message(lambda: build_dataclass(Example, {"count": "few"}, "a file"))
    assert text == "count in a file must be a whole number; found 'few'"


def test_a_run_spec_requires_a_method_and_a_model():
    """All other fields of a run spec have a default."""
    assert message(lambda: build_dataclass(RunSpec, {}, "the request")) == "the request lacks method, model"
    assert build_dataclass(RunSpec, {"method": "m", "model": "net"}, "the request") == RunSpec(method="m", model="net")


def test_optional_fields_of_a_run_spec_are_converted():
    """A field that may be None accepts None, a value of its type, and the value's text."""
    values = {"method": "m", "model": "net", "limit_train": "7", "sparsity": "0.5", "recipe": None, "track": "prune"}
    found = build_dataclass(RunSpec, values, "the request")
    assert (found.limit_train, found.sparsity, found.recipe, found.track) == (7, 0.5, None, "prune")


# Single values


@given(st.integers())
@FEW
def test_whole_numbers_convert_exactly(number):
    """Any integer, as a number or as text, is converted without loss."""
    assert convert(number, int, "x") == convert(str(number), int, "x") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
@FEW
def test_a_fraction_is_not_rounded_to_a_whole_number(number):
    """A float converts to an int only if its value is an integer."""
    if number.is_integer():
        assert convert(number, int, "x") == number
    else:
        assert message(lambda: convert(number, int, "x")) == f"x must be a whole number; found {number!r}"


@given(st.floats(allow_nan=False, allow_infinity=False))
@FEW
def test_numbers_convert_exactly(number):
    """Any finite float, as a number or as text, is converted without loss."""
    assert convert(number, float, "x") == convert(repr(number), float, "x") == number


@pytest.mark.parametrize("kind", [int, float])
@given(text=st.text(max_size=8) | st.text("0123456789.-e_ ", max_size=5))
@FEW
def test_text_is_converted_as_python_does_or_is_an_error(kind, text):
    """Text that Python reads as a finite number of the type is converted, and other text is an error of one line."""
    assert convert(text, str, "x") == text
    try:
        expected = kind(text)
    except ValueError:
        expected = math.nan
    if math.isfinite(expected):
        assert convert(text, kind, "x") == expected
    else:
        message(lambda: convert(text, kind, "x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", "-inf", True, [], {}, 10**400])
def test_a_value_that_is_not_a_finite_number_is_an_error(value):
    """NaN, infinities, truth values and containers are not numbers."""
    assert message(lambda: convert(value, float, "x")).startswith("x must be a number; found ")


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), ("true", True), ("False", False), ("TRUE", True)]
)
def test_truth_values_convert(value, expected):
    """The case of a truth value does not matter."""
    assert convert(value, bool, "x") is expected


@pytest.mark.parametrize("value", [1, 0, "yes", "", 1.0, []])
def test_other_values_are_not_truth_values(value):
    """Neither 1 nor "yes" is true."""
    assert message(lambda: convert(value, bool, "x")) == f"x must be true or false; found {value!r}"


@pytest.mark.parametrize("hint", [Literal["a", "b"], Literal["a", "b"] | None])
def test_a_literal_accepts_its_values_only(hint):
    """A Literal, optional or not, accepts exactly its values."""
    assert [convert(value, hint, "x") for value in ("a", "b", None)] == ["a", "b", None]
    assert message(lambda: convert("c", hint, "x")) == "x must be one of a, b; found 'c'"


def test_a_literal_of_numbers_accepts_their_text():
    """Text from the command line becomes the number in the Literal."""
    assert [convert(value, Literal[1, 2], "x") for value in (1, "2")] == [1, 2]
    assert message(lambda: convert("3", Literal[1, 2], "x")) == "x must be one of 1, 2; found '3'"


def test_a_track_is_a_literal():
    """The field `track` of a run spec accepts the names of the tracks."""
    assert convert("supermask", TrackName, "track") == "supermask"


def test_an_optional_number_is_checked_like_the_number():
    """`int | None` accepts None and integers, and nothing else."""
    assert [convert(value, int | None, "x") for value in (None, 3, "4")] == [None, 3, 4]
    assert message(lambda: convert("a", int | None, "x")) == "x must be a whole number; found 'a'"


@pytest.mark.parametrize("hint", [Any, object, tuple, tuple[int, int], tuple[str, ...], Mapping[str, object]])
def test_values_of_other_types_are_returned_unchanged(hint):
    """A tuple or a mapping is checked by the class that declares it."""
    value = (1, 2)
    assert convert(value, hint, "x") is value


# Choices and TOML


def test_a_value_outside_a_choice_is_an_error_with_the_reason():
    """The message lists the allowed values without None, and explains the restriction."""
    check_choice("size", None, (None, 1, 2))
    text = message(lambda: check_choice("size", 3, (None, 1, 2), "larger ones do not fit"))
    assert text == "size must be one of 1, 2; found 3 (larger ones do not fit)"


def test_toml_is_read_from_text_and_from_a_file(tmp_path):
    """A file gives the same values as its text."""
    text = "a = 1\n[b]\nc = 'd'\n"
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert read_toml(path) == parse_toml(text, "text") == {"a": 1, "b": {"c": "d"}}


def test_a_byte_order_mark_is_ignored(tmp_path):
    """A TOML file or text with a byte-order mark, as some editors write it, is read like one without."""
    path = tmp_path / "x.toml"
    path.write_text("a = 1\n", encoding="utf-8-sig")
    assert read_toml(path) == parse_toml("\ufeffa = 1", "text") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a =", "is not valid TOML: "),
        (b"a = 1\na = 2", "is not valid TOML: "),
        (b"\xff", "is not valid TOML: 'utf-8' codec"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_not_toml_is_an_error_with_its_path(tmp_path, content, reason):
    """Bad syntax, bad encoding and a missing file are errors of one line that name the file."""
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    text = message(lambda: read_toml(path))
    assert str(path) in text
    assert reason in text


@pytest.mark.parametrize(
    "content",
    [
        *("a = 1 # " + "x" * 2**20, "a = " + "[" * 10**5, "a = " + "[" * 100 + "]" * 100),
        *(".".join(["a"] * 2**18) + " = 1", ".".join(['"\\"."'] * 2**17) + " = 1"),
        *("a = [1, 0x" + "f" * 5000 + "]", "a = " + "9" * 5000),
    ],
    ids=["long", "brackets", "closed-brackets", "dotted", "quoted", "hexadecimal", "decimal"],
)
def test_a_file_that_would_fill_memory_or_stack_is_refused(tmp_path, content):
    """A file without an end, one that is nested without an end, and huge integers are errors like any other."""
    path = tmp_path / "large.toml"
    path.write_text(content)
    assert str(path) in message(lambda: read_toml(path))


def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path):
    """A named pipe, on which reading would wait forever, is an error that names it."""
    path = tmp_path / "x.toml"
    os.mkfifo(path)
    assert message(lambda: read_toml(path)) == f"cannot read {path}: it is not a regular file"


def test_many_dots_that_separate_no_keys_are_allowed():
    """Decimal points and sentences do not count as parts of a key."""
    text = f"a = [{', '.join(['0.5'] * 5000)}] # {'and so on ... ' * 2000}"
    assert len(parse_toml(text, "text")["a"]) == 5000
