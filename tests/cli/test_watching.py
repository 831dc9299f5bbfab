"""Commands whose process is ended by a method: `run` leaves a record and exits with 1, `check` exits with 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from command_cases import SMALL
from project import ROOT
from pruneboard.records import store
from runs import folder

SOURCE = """
    import os
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            os.execv("/bin/true", ["true"])  # ends the process with exit code 0, and no exception
"""


@pytest.fixture
def pruneboard(site, tmp_path):
    """A function that runs the command line in a process of its own, with a method that replaces its process."""
    site.add("ends", textwrap.dedent(SOURCE), module="ends")
    paths = os.pathsep.join([str(site.folder), str(ROOT), str(ROOT / "plugins")])

    def run(*arguments):
        command = [sys.executable, "-m", "pruneboard", *arguments]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_run_whose_process_is_lost_leaves_a_failed_record(pruneboard, tmp_path):
    """`run` exits with 1, says so in one line, and the record has the status `failed`."""
    done = pruneboard("run", "--method", "thing", *SMALL, "--sparsity", "0.9", "--quiet", "--json")
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 1
    assert "the process ended by itself with exit code 0 before the run was over" in error
    record = store.read(folder(tmp_path / "results") / "run.json")
    assert record == json.loads(done.stdout)
    assert (record["status"], record["error"]["kind"]) == ("failed", "LostProcess")


@pytest.mark.slow
def test_a_check_whose_process_is_lost_fails(pruneboard):
    """`check` exits with 3, and reports the check that was under way as failed, after those that were done."""
    done = pruneboard("check", "thing", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    *passed, last = found["checks"]
    assert found["method"] == "thing"
    assert {result["outcome"] for result in passed} == {"passed"}
    assert last["outcome"] == "failed"
    assert "ended by itself with exit code 0" in last["message"]
    assert last["check"] in done.stderr
