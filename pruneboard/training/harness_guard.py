"""Detects that a method replaced a part of the harness, and undoes the replacement."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from pruneboard.training.optim import GroupedOptimizer

_MISSING = object()


@contextmanager
def harness_restored() -> Iterator[list[str]]:
    """Restore the harness after the block; yields a list that then contains the names of everything replaced.

    Covers the harness's functions with their code and defaults, its classes and their methods, and its constants.
    """
    GroupedOptimizer([{"params": [nn.Parameter(torch.zeros(1))]}])  # torch wraps `step` when it builds the first one
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pruneboard"}
    holders: list[tuple[str, Any, dict[str, Any]]] = [
        (name, module, dict(vars(module))) for name, module in modules.items()
    ]
    holders += [(f"{cls.__module__}.{cls.__qualname__}", cls, dict(vars(cls))) for cls in _classes(modules)]
    tables = [(f"{name}.{key}", table, dict(table)) for name, _, held in holders for key, table in _tables(held)]
    # A function stays the same object when its code is exchanged, and so do all imported references to it.
    functions = [
        (name, f, _parts(f)) for name, _, held in holders for value in held.values() for f in _functions(value)
    ]
    replaced = list[str]()
    try:
        yield replaced
    finally:
        for name, holder, before in holders:
            for key in _added(holder, before):
                replaced.append(f"{name}.{key}")
                delattr(holder, key)
            for key in _changed(before, vars(holder)):
                replaced.append(f"{name}.{key}")
                setattr(holder, key, before[key])
        for name, table, before in tables:
            if table != before:
                replaced.append(name)
                table.clear()
                table.update(before)
        for name, function, parts in functions:
            if _parts(function) != parts:
                replaced.append(f"{name}.{function.__name__}")
                function.__code__, function.__defaults__, function.__kwdefaults__ = parts


def _functions(value: object) -> list[FunctionType]:
    """Return the functions behind an attribute: itself, or those of a property, static method or class method."""
    inner = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
    return [f for f in inner if isinstance(f, FunctionType)]


def _parts(function: FunctionType) -> tuple[Any, ...]:
    defaults = function.__kwdefaults__
    return function.__code__, function.__defaults__, None if defaults is None else dict(defaults)


def _added(holder: Any, before: dict[str, Any]) -> list[str]:
    """Return the new attributes that act as a replacement: methods of a class, names of builtins in a module."""
    new = {key: value for key, value in vars(holder).items() if key not in before}
    if isinstance(holder, ModuleType):
        return [key for key in new if hasattr(builtins, key)]
    return [key for key, value in new.items() if isinstance(value, (FunctionType, property, classmethod, staticmethod))]


def _classes(modules: dict[str, ModuleType]) -> list[type]:
    return [
        value
        for name, module in modules.items()
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == name
    ]


def _tables(held: dict[str, Any]) -> list[tuple[str, dict[Any, Any]]]:
    return [(key, value) for key, value in held.items() if isinstance(value, dict) and key.isupper()]


def _changed(before: dict[str, Any], after: Any) -> list[str]:
    """Return the names of the functions, classes and immutable constants that were replaced."""
    found = [key for key, value in before.items() if after.get(key, _MISSING) is not value]
    return [key for key in found if _is_fixed(key, before[key])]


def _is_fixed(key: str, value: object) -> bool:
    """Whether the attribute is a function, a class, a module or a constant; lowercase module state may change."""
    if key.startswith("__") and not isinstance(value, FunctionType):
        return False
    return (
        callable(value)
        or isinstance(value, ModuleType)
        or (key.isupper() and isinstance(value, (int, float, str, tuple, frozenset, dict)))
    )
