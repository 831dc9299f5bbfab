"""Conversion of values from TOML files and the command line to the types of a dataclass. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pruneboard.errors import UnknownNameError, UsageError, on_one_line

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

T = TypeVar("T")


MAX_TOML = 2**20
"""Maximum number of characters of a TOML file."""

_MAX_DEPTH = 32
_MAX_PARTS = 1000
_PART = re.compile(r"""\.[ \t]*(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*(?=\.)""")
"""A part within a dotted key, for which the parser takes a time that grows with the square of their number."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would block forever, and a device may never end
            raise UsageError(f"cannot read {path}: it is not a regular file")
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TOML + 1)
        if len(text) > MAX_TOML:
            raise UsageError(f"{path} has more than {MAX_TOML} characters, as no recipe, board or configuration has")
        return parse_toml(text, str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text.

    Args:
        text: the content; a byte-order mark before it, which some editors write, is ignored.
        where: what to call its source in a message.

    Raises:
        UsageError: the text is not TOML, is nested too deeply, or has an integer of more than 64 bits.
    """
    if len(_PART.findall(text)) > _MAX_PARTS:
        raise UsageError(f"{where} is not valid TOML: it is nested too deeply")
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {on_one_line(error)}") from None
    except ValueError as error:  # a decimal integer of more digits than Python converts
        raise UsageError(f"{where} is not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{where} is not valid TOML: it is nested too deeply") from None
    _check_values(values, where)
    return values


def _check_values(values: dict[str, Any], where: str) -> None:
    """Refuse values that could not be shown in a message: nested too deeply, or integers beyond TOML's 64 bits."""
    front: list[Any] = [values]
    for _ in range(_MAX_DEPTH):
        found = [child for item in front for child in (item.values() if isinstance(item, dict) else item)]
        if any(isinstance(item, int) and not -(2**63) <= item < 2**63 for item in found):
            raise UsageError(f"{where} is not valid TOML: it has an integer of more than 64 bits")
        front = [item for item in found if isinstance(item, dict | list)]
        if not front:
            return
    raise UsageError(f"{where} is not valid TOML: it is nested too deeply")


def build_dataclass(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """Build an instance of the dataclass `cls`, with every value converted to its field's type.

    Args:
        cls: a dataclass; `convert` lists the field types.
        values: field -> value, from a file or the command line.
        where: what to call their source in a message.

    Raises:
        UnknownNameError: a key that is not a field.
        UsageError: a field without default is missing, or a value has the wrong type.
    """
    hints = get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cast("Any", cls)) if item.init}
    for name in values:
        if name not in known:
            raise UnknownNameError(f"key in {where}:", name, known)
    missing = [n for n, f in known.items() if n not in values and _required(f)]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}")
    return cls(**{name: convert(value, hints[name], f"{name} in {where}") for name, value in values.items()})


def convert(value: object, hint: Any, where: str) -> object:
    """Return `value` converted to the type `hint`.

    Args:
        value: a value of that type, or for int, float, bool and Literal its text.
        hint: int, float, bool, str, a Literal, or one of these or None. Values of other types, such as tuples and
            mappings, are returned unchanged: the dataclass checks them itself.
        where: what to call the value in a message.

    Raises:
        UsageError: the value is not of that type, not finite, or a fraction where an int is required.
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind = next(member for member in members if member is not type(None))
    if get_origin(kind) is Literal and value is not None:
        named = {str(item): item for item in get_args(kind)}
        check_choice(where, str(value), tuple(named))
        return named[str(value)]
    if value is None or kind in (Any, object, tuple) or get_origin(kind):
        return value
    try:
        return _CONVERTERS[kind](value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UsageError(f"{where} must be {_NOUNS.get(kind, kind)}; found {value!r}") from None


def _to_int(value: Any) -> int:
    number = int(value)  # a text must consist of digits
    if isinstance(value, bool) or not (isinstance(value, str) or number == value):
        raise ValueError
    return number


def _to_float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _to_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_CONVERTERS: dict[Any, Any] = {int: _to_int, float: _to_float, bool: _to_bool, str: _to_str}
_NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def check_choice(what: str, value: object, allowed: tuple[object, ...], why: str = "") -> None:
    """Raise an error unless `value` is one of `allowed`.

    Args:
        what: what to call the value in the message.
        value: the value.
        allowed: the allowed values; None is not listed in the message.
        why: explanation of the restriction, appended to the message.

    Raises:
        UsageError: it is not one of them.
    """
    if value not in allowed:
        names = ", ".join(str(item) for item in allowed if item is not None)
        raise UsageError(f"{what} must be one of {names}; found {value!r}{f' ({why})' if why else ''}")
