"""A command in a watched process: its exit code, its loss, signals, and the end of the watching process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from project import ROOT

PROGRAM = """
import os, signal, sys, time
from pruneboard.processes import guardian

def command():
    guardian.note("working", pid=os.getpid())
    exec(sys.argv[1])
    return 7

def on_loss(loss):
    print([note["kind"] for note in loss.notes], loss.reason)
    return 1

sys.exit(guardian.watch(command, on_loss))
"""


def start(body):
    """Start a watched command that executes `body`."""
    command = [sys.executable, "-c", PROGRAM, body]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(body):
    """The exit code and the output of a watched command."""
    with start(body) as process:
        out, _ = process.communicate()
    return process.returncode, out.strip()


def test_the_exit_code_is_that_of_the_command():
    """A command that returns ends the program with its exit code, and nothing is reported."""
    assert finished("pass") == (7, "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os._exit(0)", "ended by itself with exit code 0"),
        ("os.execv('/bin/true', ['true'])", "ended by itself with exit code 0"),
        ("os.abort()", "was killed by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by SIGTERM"),
    ],
)
def test_a_lost_command_is_reported(body, reason):
    """However the process ends without an exit code of its own, its notes and the reason are handed over."""
    assert finished(body) == (1, f"['working'] {reason}")


def test_signals_are_passed_on():
    """SIGTERM sent to the program reaches the command, whose handler decides the exit code."""
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('ready', flush=True); time.sleep(60)"
    with start(
        f"try:\n    {body}\nexcept SystemExit as stop:\n    guardian.note('end', code=stop.code); os._exit(0)"
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 5


def test_an_unhandled_signal_ends_the_program_as_usual():
    """SIGTERM before the command handles it ends the program by that signal, and reports no loss."""
    with start("print('ready', flush=True); time.sleep(60)") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    assert (process.returncode, out) == (-signal.SIGTERM, "")


def test_the_command_ends_with_the_program():
    """After SIGKILL to the program, the command ends too."""
    with start("print(os.getpid(), flush=True); time.sleep(60)") as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            time.sleep(0.01)
