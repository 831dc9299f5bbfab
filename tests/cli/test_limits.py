"""Limits of the shell: a deleted working folder, and a memory limit that is too small for libraries."""

from __future__ import annotations

import json

import pytest

from command_cases import RUN, shell
from fake_records import put, record

SMALL, LARGER = 500_000, 6_000_000
"""Limits in KiB: too small for torch, and enough for torch but too small for the library that draws charts."""


@pytest.mark.parametrize("command", ["list", "compare results", "check magnitude", " ".join(RUN)])
def test_without_a_working_folder_a_command_is_refused(tmp_path, command):
    """A command whose working folder was deleted is refused in one line that says what to do."""
    folder = tmp_path / "gone"
    folder.mkdir()
    code, out, err = shell(f"rmdir {folder}; $P {command}", cwd=folder)
    assert (code, out) == (2, "")
    assert err == "error: the working folder of this shell does not exist any more: cd to a folder that does\n"


def test_doctor_names_a_deleted_working_folder(tmp_path):
    """`doctor` reports a deleted working folder as a problem, and help is still printed."""
    folder = tmp_path / "gone"
    folder.mkdir()
    code, out, err = shell(f"rmdir {folder}; $P run --help > /dev/null && $P doctor --json", cwd=folder)
    assert (code, err) == (1, "")
    assert [f["what"] for f in json.loads(out)["findings"] if f["status"] == "wrong"] == ["working folder"]


def test_too_little_memory_for_torch_is_one_line(tmp_path):
    """A run under a memory limit that is too small for torch is refused in one line with the limit."""
    code, out, err = shell(f"ulimit -v {SMALL}; $P {' '.join(RUN)} --results {tmp_path / 'r'}")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: torch does not fit into the memory limit of this shell, ulimit -v {SMALL}: raise it")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_doctor_names_a_memory_limit_that_is_too_small(tmp_path):
    """`doctor` reports a memory limit that is too small for torch as a problem, without importing torch."""
    code, out, err = shell(f"ulimit -v {SMALL}; $P doctor --json --results {tmp_path}")
    assert (code, err) == (1, "")
    assert [f["what"] for f in json.loads(out)["findings"] if f["status"] == "wrong"] == ["memory limit"]


def test_too_little_memory_for_charts_is_one_line(tmp_path):
    """`compare` under a limit that is too small for charts is refused in one line, and writes formats without them."""
    put(tmp_path, record())
    code, out, err = shell(f"ulimit -v {LARGER}; $P compare {tmp_path}")
    assert (code, out) == (2, "")
    assert err.startswith(
        f"error: the library that draws charts does not fit into the memory limit of this shell, "
        f"ulimit -v {LARGER}: raise it, or pass --format"
    )
    code, _, err = shell(f"ulimit -v {LARGER}; $P compare {tmp_path} --format md,tex,csv,json")
    assert (code, err) == (0, "")
    assert (tmp_path / "leaderboard" / "leaderboard.md").exists()
