"""The contract suite's two processes: tasks on one or both of them, and what replaces a pair that died."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from pruneboard.testing import pair
from pruneboard.testing.pair import Reply

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")


@pytest.fixture(scope="module")
def shared():
    """The shared pair, closed after this module."""
    yield pair.shared_pair
    pair.shared_pair().close()


def environment():
    """A task: this process's number and its launcher's variables."""
    return os.getpid(), [os.environ.get(name) for name in NAMES]


def rank_sum():
    """A task for both: the sum of the ranks, by an all-reduce."""
    import torch
    from torch import distributed

    from pruneboard.training import engine

    engine.start_deepspeed(torch.device("cpu"))
    ranks = torch.tensor([int(os.environ["RANK"]) + 1])
    distributed.all_reduce(ranks)
    return int(ranks)


def fail():
    """A task that raises."""
    raise ValueError("two\nlines")


def path():
    """A task: where modules are imported from."""
    return sys.path


def die():
    """A task that kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_runs_on_both_as_one_run_or_alone(shared):
    """Both processes are the ranks of one run and can reduce; alone, a process sees no launcher's variables."""
    both = shared().run_on_both(environment)
    assert [reply.value[1] for reply in both] == [[str(rank), str(rank), "2", "127.0.0.1"] for rank in (0, 1)]
    assert [reply.value for reply in shared().run_on_both(rank_sum)] == [3, 3]
    alone = [shared().run_alone(rank, environment).value for rank in (0, 1)]
    assert [number for number, _ in alone] == [reply.value[0] for reply in both]
    assert [variables for _, variables in alone] == [[None] * len(NAMES)] * 2


def test_modules_are_found_as_in_this_process(shared, monkeypatch, tmp_path):
    """A task sees the import path that this process has when the task is sent."""
    monkeypatch.syspath_prepend(str(tmp_path))
    assert shared().run_alone(1, path).value[0] == str(tmp_path)


def test_an_error_is_a_reply_in_one_line(shared):
    """A task that raises gives the error as text, and the pair serves the next task."""
    assert shared().run_on_both(fail) == [Reply(None, "ValueError: two lines")] * 2
    assert shared().run_alone(0, environment).error is None


def test_what_cannot_be_pickled_is_a_reply(shared):
    """A task that cannot be sent gives the reason, and nothing is sent."""
    reply = shared().run_alone(0, lambda: None)
    assert reply.error.startswith("it cannot be sent to another process: ")
    assert shared().run_alone(0, environment).error is None


def test_a_dead_pair_is_replaced(shared):
    """When a task ends its process, its reply says so, both processes end, and the next task gets a new pair."""
    first = shared()
    assert "a process ended" in first.run_alone(0, die).error
    assert not first.alive
    assert shared().alive
    assert shared() is not first
