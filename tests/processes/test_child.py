"""Child processes: messages in both directions, and an end together with the parent, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruneboard.processes.child import Child, stop
from worker_tasks import describe, echo, hang

HANG = 60
"""Seconds after which something that takes a moment is considered stuck."""


def alive(pid):
    """Whether a process is running; one that ended but has not been waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_messages_go_both_ways_and_the_returned_value_comes_last():
    """A child answers messages, sends what its function returns, and ends with exit code 0 and a closed pipe."""
    child = Child(echo)
    for message in ("one", {"two": [2]}, "end"):
        child.pipe.send(message)
    assert [child.pipe.recv() for _ in range(3)] == ["one", {"two": [2]}, "last"]
    with pytest.raises(EOFError):
        child.pipe.recv()
    assert child.exit_code() == 0


def test_a_child_ignores_ctrl_c_and_torchruns_store(monkeypatch):
    """SIGINT is left to the parent, and a variable that a torchrun set for the parent is removed."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    child = Child(describe)
    assert child.pipe.recv() == {"ignores SIGINT": True, "agent store": None}
    stop([child], HANG)


def test_stop_ends_every_child(capfd):
    """One that is waiting, one that has ended, and one that ignores SIGTERM have all ended, without a traceback."""
    children = [Child(hang), Child(echo), Child(hang, True)]
    children[1].pipe.send("end")
    for child in children:
        child.pipe.recv()
    children[1].process.join(HANG)
    stop(children[:2], HANG)
    stop(children[2:], 0.0)
    assert [child.process.exitcode for child in children] == [0, 0, -signal.SIGKILL]
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_child_closes_its_pipe():
    """The parent reads the end of the pipe and the signal as exit code."""
    child = Child(hang)
    os.kill(child.pipe.recv(), signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionError)):
        child.pipe.recv()
    assert child.exit_code() == -signal.SIGKILL


def test_children_end_when_their_parent_is_killed():
    """After `kill -9` of the parent, a child that is busy and sends nothing ends too."""
    code = """
import time
from worker_tasks import hang
from pruneboard.processes.child import Child
if __name__ == "__main__":
    child = Child(hang)
    print(child.pipe.recv(), flush=True)
    time.sleep(1000)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    deadline = time.monotonic() + HANG
    while (remains := alive(child)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if remains:
        os.kill(child, signal.SIGKILL)
    assert not remains
