"""SIGTERM and SIGINT while a run trains: the step is finished and saved before the run ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pruneboard.errors import InterruptedRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)

INSISTS_AFTER = 1.0
"""Seconds after which a second signal is meant: launchers pass on what their workers got from the terminal too."""


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        number: the signal that asked; 0 for none.
    """

    def __init__(self) -> None:
        """Start without one."""
        self.number = 0
        self._since = 0.0

    def take(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; the same one again, a second later, ends the run at once."""
        del frame
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > INSISTS_AFTER:
            raise stop_error(number, "")


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Turn signals into a request for the length of the block; outside the main thread nothing changes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup means it
    before = {number: signal.signal(number, request.take) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_now(number: int, frame: FrameType | None) -> None:
    """End the run now: the handler for when there is nothing to save."""
    del frame
    raise stop_error(number, "")


def stop_error(number: int, saved: str) -> BaseException:
    """Return what ends a run that signal `number` stopped; `saved` says what is kept."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(f"stopped by Ctrl-C{saved}: run the same command again")
    return InterruptedRunError(f"stopped by SIGTERM{saved}: run the same command again")
