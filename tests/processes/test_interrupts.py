"""Signals during a run: the first one asks it to stop, a later one ends it, and the old handlers come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pruneboard.errors import InterruptedRunError
from pruneboard.processes import interrupts
from pruneboard.processes.interrupts import SIGNALS, listen_for_stop, stop_error, stop_now

ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: InterruptedRunError}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_is_a_request_and_a_later_one_ends_the_run(clock, number):
    """The first signal raises nothing; another one is ignored within `REPEAT_SECONDS`, and raises after them."""
    with listen_for_stop() as request:
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
        clock[0] += interrupts.REPEAT_SECONDS
        os.kill(os.getpid(), number)
        clock[0] += 0.1
        with pytest.raises(ERRORS[number], match="run the same command again"):
            os.kill(os.getpid(), number)


def test_handlers_come_back():
    """After the block the earlier handlers are in place, even if the block raised."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError), listen_for_stop():
        {}["a key that is missing"]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_ignored_signal_stays_ignored():
    """A signal that is ignored, as SIGINT is for a command that a shell started in the background, stops nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listen_for_stop() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handlers_alone():
    """Outside the main thread, where Python allows no handlers, the block runs and no handler changes."""
    before = [signal.getsignal(number) for number in SIGNALS]
    found = []

    def run():
        with listen_for_stop() as request:
            found.append((request.number, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0, before)]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_error_says_what_was_saved(number):
    """The exception's class follows the signal, and its message says what was saved and how to resume."""
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    error = stop_error(number, ", saved at step 8")
    assert type(error) is ERRORS[number]
    assert str(error) == f"stopped by {name}, saved at step 8: run the same command again"
    with pytest.raises(ERRORS[number], match=f"^stopped by {name}: run"):
        stop_now(number, None)
