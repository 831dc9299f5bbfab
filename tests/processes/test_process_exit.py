"""The exit of a process: the code and the output arrive, and only a process with DeepSpeed skips finalization."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
