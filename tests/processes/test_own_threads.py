"""Threads of the harness are not counted, others are."""

from __future__ import annotations

import threading

from pruneboard.processes import own_threads


def started(end):
    """Start a thread that waits for the event, and return it."""
    thread = threading.Thread(target=end.wait)
    thread.start()
    return thread


def test_only_threads_of_others_are_counted():
    """A thread started in the block changes nothing; one started outside of it is one more until it ends."""
    before, end = own_threads.others(), threading.Event()
    with own_threads.starting():
        ours = started(end)
    assert own_threads.others() == before
    theirs = started(end)
    assert own_threads.others() == before + 1
    end.set()
    ours.join()
    theirs.join()
    assert own_threads.others() < before + 1


def test_a_thread_that_ends_in_the_block_changes_nothing():
    """Threads that start and end while the harness works cancel out."""
    before = own_threads.others()
    with own_threads.starting():
        end = threading.Event()
        thread = started(end)
        end.set()
        thread.join()
    assert own_threads.others() == before
