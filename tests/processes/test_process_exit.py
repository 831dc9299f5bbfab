"""The exit of a process: the code and the output arrive, and only a process with DeepSpeed skips finalization."""

from __future__ import annotations

import os
import posix
import subprocess
import sys

import pytest

from pruneboard.processes.process_exit import exit_raises

CODE = """
import atexit, sys, types
from pruneboard.processes.process_exit import exit_process

if "deepspeed" in sys.argv:
    sys.modules["deepspeed"] = types.ModuleType("deepspeed")
if "closed" in sys.argv:
    sys.stdout = None
else:
    sys.stdout.write("written")  # not flushed: it is a pipe
atexit.register(lambda: sys.stderr.write("finalized"))
exit_process(75)
"""


def run(*arguments):
    """Run `CODE` and return its exit code and its output."""
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_process_without_deepspeed_is_finalized():
    """It exits the usual way, which calls what `atexit` has registered."""
    assert run() == (75, "written", "finalized")


@pytest.mark.parametrize(("arguments", "output"), [((), "written"), (("closed",), "")])
def test_a_process_with_deepspeed_is_not_finalized(arguments, output):
    """It flushes its output, if that is still open, and exits with the same code, without finalization."""
    assert run("deepspeed", *arguments) == (75, output, "")


@pytest.mark.parametrize("module", [os, posix])
def test_an_exit_can_be_made_to_raise(module):
    """In the block, `os._exit` of this thread raises; afterwards it is the original again."""
    before = module._exit
    with exit_raises(), pytest.raises(RuntimeError, match=r"os\._exit\(0\) was called"):
        module._exit(0)
    assert module._exit is before


def test_forked_processes_still_exit():
    """In the block, a forked process exits with its code; the harness ends its own processes that way."""
    with exit_raises():
        child = os.fork()
        if not child:
            os._exit(9)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9


def test_other_threads_still_exit():
    """In the block, a thread of the harness can end the process, for example when its parent is gone."""
    code = (
        "import os, threading, time; from pruneboard.processes.process_exit import exit_raises\n"
        "with exit_raises(): threading.Thread(target=lambda: os._exit(9)).start(); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
