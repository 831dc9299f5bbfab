"""SIGTERM and SIGINT during a run: the current step is finished and saved before the run ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pruneboard.errors import InterruptedRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)

REPEAT_SECONDS = 1.0
"""A second signal counts only after this time, because launchers pass on what a terminal has sent to all processes."""


class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        number: the signal; 0 if there was none.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self.number = 0
        self._since = 0.0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; raise if another one comes at least `REPEAT_SECONDS` later."""
        if not self.number:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > REPEAT_SECONDS:
            stop_now(number, frame)


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Turn signals into a request while the block runs; outside the main thread, leave them as they are."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, request.handle) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_now(number: int, frame: FrameType | None) -> None:
    """End the run immediately: the signal handler while there is nothing to save."""
    del frame
    raise stop_error(number, "")


def stop_error(number: int, saved: str) -> BaseException:
    """Return the exception for a run that signal `number` stopped; `saved` says what was saved."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(f"stopped by Ctrl-C{saved}: run the same command again")
    return InterruptedRunError(f"stopped by SIGTERM{saved}: run the same command again")
