"""The current phase of a command, such as `reading the images`: reported by the code that does the work.

There is one receiver per process, the display of the command line, and none by default. So every package can report
without passing a display through all its functions, and a report costs next to nothing without a receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pruneboard.processes import own_threads

T = TypeVar("T")

Receiver = Callable[[str, int, int], None]
"""Receives the name of the phase, the number of the item that is being worked on, and the number of items.

Both numbers are 0 if they are unknown. Together they read as a phrase: `("batch statistics", 5, 16)`.
"""

_receiver: Receiver | None = None
_outer: list[tuple[str, str]] = []
"""The phases around the current one, each with its current item, or an empty text."""


@contextmanager
def reported_to(receiver: Receiver) -> Iterator[None]:
    """During the block, send every report to `receiver`."""
    global _receiver  # noqa: PLW0603 - one per process
    before, _receiver = _receiver, receiver
    try:
        yield
    finally:
        _receiver = before


def report(phase: str, done: int = 0, total: int = 0) -> None:
    """Report that `phase` is under way; see `Receiver` for the numbers."""
    if _receiver is not None:
        with own_threads.starting():  # a display may start one, also while a method's hook runs
            _receiver(": ".join([*(part for pair in _outer for part in pair if part), phase]), done, total)


def counted(phase: str, items: Iterable[T], total: int = 0) -> Iterator[T]:
    """Yield `items`, and report each one before it is worked on; `total` is their number, or 0 if it is unknown."""
    for number, item in enumerate(items, 1):
        report(phase, number, total)
        yield item


@contextmanager
def within(phase: str) -> Iterator[None]:
    """Name `phase` before every phase that is reported during the block."""
    depth = len(_outer)
    _outer.append((phase, ""))
    try:
        yield
    finally:
        del _outer[depth:]


def item(what: str, done: int, total: int = 0, *, replace: bool = True) -> None:
    """Report the current item of the phase of `within`, such as `sample 3 of 10`, and name it before inner phases.

    Args:
        what: what is counted.
        done: number of the item that is being worked on.
        total: number of items; 0 if it is unknown.
        replace: replace the item that was reported before, if there is one.
    """
    if not _outer or (_outer[-1][1] and not replace):
        return
    name, _ = _outer.pop()
    report(f"{name}: {what}", done, total)
    _outer.append((name, number(what, done, total)))


def number(phase: str, done: int, total: int = 0) -> str:
    """Return phase and numbers as one phrase: `sample 3 of 10`, `pass 7`, or the phase alone."""
    return f"{phase} {done} of {total}" if total else f"{phase} {done}" if done else phase
