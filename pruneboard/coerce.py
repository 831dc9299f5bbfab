"""Values from TOML files and the command line, converted to the types that a dataclass declares. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pruneboard.errors import UnknownNameError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why it cannot be read."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text; `where` names its source in the message.

    Raises:
        UsageError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from None


def build(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """Build dataclass `cls` from `values`, refusing unknown keys, missing keys and wrong types.

    Args:
        cls: a dataclass whose field types are int, float, bool, str, a tuple, or an option of these.
        values: what a file or the command line gave.
        where: named in every message.
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
    """Return `value` as the type `hint` names: numbers and truth values may be given as text.

    Raises:
        UsageError: it is not of that type; an int is never made from a fraction.
    """
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind = next(member for member in members if member is not type(None))
    if get_origin(kind) is Literal and value is not None:
        named = {str(item): item for item in get_args(kind)}
        choice(where, str(value), tuple(named))
        return named[str(value)]
    if value is None or kind in (Any, object, tuple) or get_origin(kind):  # the class itself looks inside a tuple
        return value
    try:
        return _CONVERTERS[kind](value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UsageError(f"{where} is {_NOUNS.get(kind, kind)}; found {value!r}") from None


def _to_int(value: Any) -> int:
    number = int(value)  # of a text: digits only
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


def choice(what: str, value: object, allowed: tuple[object, ...], why: str = "") -> None:
    """Refuse a value that is not one of `allowed`; `why` explains the restriction.

    Raises:
        UsageError: it is not.
    """
    if value not in allowed:
        names = ", ".join(str(item) for item in allowed if item is not None)
        raise UsageError(f"{what} is one of {names}; found {value!r}{f' ({why})' if why else ''}")
