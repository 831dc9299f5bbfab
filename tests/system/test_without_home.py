"""Runs of a user without a home folder, as in a container that starts with an arbitrary user id."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from command_cases import RUN, shell, swap
from runs import folder

WITHOUT_HOME = (
    *("unshare", "--user", "--map-user=4242", "--map-group=4242"),
    *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "LNAME", "-u", "USERNAME"),
)

pytestmark = pytest.mark.skipif(
    shell(f"{shlex.join(WITHOUT_HOME)} true")[0] != 0, reason="user namespaces are not available"
)


def start(tmp_path, *arguments):
    """Start a run without a home folder."""
    command = [*WITHOUT_HOME, sys.executable, "-m", "pruneboard", *arguments, "--results", str(tmp_path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)


def test_a_finished_and_a_failed_run_are_recorded(tmp_path):
    """A finished run exits with 0 and a failed one with 1, each with its record, and no folder named ~ appears."""
    for arguments, code, status in (
        (RUN, 0, "done"),
        ([*swap(RUN, "--epochs", "4"), "--lr", "1e38", "--clip", "0"], 1, "diverged"),
    ):
        results = tmp_path / status
        results.mkdir()
        process = start(results, *arguments)
        _, err = process.communicate(timeout=300)
        assert process.returncode == code
        assert "Traceback" not in err
        assert json.loads((folder(results) / "run.json").read_text())["status"] == status
        assert "~" not in os.listdir(results)  # noqa: PTH208


def test_sigterm_exits_with_75(tmp_path):
    """A run that receives SIGTERM saves, records that it was interrupted, and exits with 75."""
    process = start(tmp_path, *[a for a in swap(RUN, "--epochs", "400") if a != "--quiet"])
    for line in process.stderr:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 75
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "interrupted"
