"""Counts Python's threads without those that the harness starts, so that a thread that a method leaves is noticed.

The harness works on behalf of a method while one of its hooks runs: it reads images, or displays a phase.
"""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from contextlib import contextmanager

_started = [0]


@contextmanager
def starting() -> Iterator[None]:
    """Do not count the threads that the block starts."""
    before = _thread._count()
    try:
        yield
    finally:
        _started[0] += _thread._count() - before


def others() -> int:
    """Return the number of threads without those started in blocks of `starting`; only its increase has a meaning.

    It becomes smaller, even negative, when one of those ends.
    """
    return _thread._count() - _started[0]
