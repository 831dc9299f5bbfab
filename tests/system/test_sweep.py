"""A complete sweep in its own process: records, progress and leaderboard, even after it was stopped or killed."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from board_file_cases import FEW, write_board
from pruneboard.cli import invoke
from pruneboard.records import store
from pruneboard.records.schema import canonical

TIMEOUT = 600
"""Seconds after which a sweep of this board counts as stuck."""


def command_line(board, results, *flags):
    """Return the command line of a sweep with one run at a time."""
    command = [sys.executable, "-m", "pruneboard", "sweep", str(board), "--results", str(results)]
    return [*command, "--device", "cpu", "--jobs", "1", *flags]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""The number of threads changes the order of sums, and therefore the bits of the result."""


def sweep(board, results, *flags):
    """Execute a sweep to its end."""
    command = command_line(board, results, *flags)
    return subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=TIMEOUT, check=False)


@contextmanager
def running_sweep(board, results, *flags):
    """Start a sweep in its own session, as a terminal or job does; afterwards none of its processes may be running."""
    command = command_line(board, results, "--quiet", *flags)
    process = subprocess.Popen(
        command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        with process:
            yield process
        assert has_ended(process.pid)
    finally:
        if not has_ended(process.pid, 0):
            os.killpg(process.pid, signal.SIGKILL)


def has_ended(group, timeout=30):
    """Return whether every process of a group ends within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while subprocess.run(["pgrep", "-g", str(group)], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def wait_for_epochs(results, epochs):
    """Wait until all runs together have finished this many epochs."""
    deadline = time.monotonic() + TIMEOUT
    while sum(path.read_bytes().count(b"\n") for path in results.rglob("metrics.jsonl")) < epochs:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def records(results):
    """Return (method, seed) -> record."""
    found = [record for _, record in store.scan([results], without=results / "leaderboard").records]
    return {(record["method"]["name"], record["seed"]): record for record in found}


def outcomes(results):
    """Return (method, seed) -> values that must not depend on how often the sweep was stopped."""
    return {
        key: [record["status"], *(record.get(name) for name in ("weights_sha256", "mask_sha256", "metrics"))]
        for key, record in records(results).items()
    }


def modification_times(results):
    """Return path -> time of the last modification, for all files of all runs."""
    folders = [path.parent for path in results.rglob("run.json")]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return a board file, its results folder after an uninterrupted sweep, and the completed process."""
    folder = tmp_path_factory.mktemp("sweep")
    board = write_board(folder, FEW, "few")
    return board, folder / "results", sweep(board, folder / "results")


def again(swept, *flags):
    """Execute a sweep of the same board into the same folder in this process; return its exit code."""
    board, results, _ = swept
    return invoke(["sweep", str(board), "--results", str(results), "--device", "cpu", "--jobs", "1", *flags])


def test_a_failed_run_is_a_row_and_does_not_stop_the_others(swept):
    """A failed run is recorded with its reason and is a row of the leaderboard; the exit code is 1."""
    _, results, process = swept
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    found = records(results)
    assert {key: record["status"] for key, record in found.items()} == {
        ("dense", 0): "done",
        ("dense", 1): "done",
        ("magnitude", 0): "done",
        ("magnitude", 1): "done",
        ("edge-popup", 0): "failed",
        ("edge-popup", 1): "failed",
    }
    assert "finite" in found["edge-popup", 0]["error"]["message"]
    assert "6 runs executed, 2 failed" in process.stdout
    assert "edge-popup" in process.stdout
    files = {path.suffix for path in (results / "leaderboard").iterdir()}
    assert {".html", ".md", ".csv", ".json"} <= files
    assert "edge-popup" in next((results / "leaderboard").glob("*.md")).read_text()


def test_every_finished_run_prints_a_line_of_progress(swept):
    """The line contains the number of finished runs, the result, and the remaining time except after the last run."""
    lines = [line for line in swept[2].stderr.splitlines() if line.startswith("[")]
    assert len(lines) == 6
    assert lines[0].startswith("[1/6] dense, test_resnet, prune, seed 0: ")
    assert "ETA" in lines[0]
    assert "ETA" not in lines[-1]
    assert sum("failed: ValueError: scores must be finite" in line for line in lines) == 2


def test_status_shows_the_results_of_a_sweep(swept, capsys):
    """`pruneboard status` counts the runs of a real sweep and lists the failed ones, also as JSON."""
    _, results, _ = swept
    assert invoke(["status", str(results)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("few: 6 runs\n")
    assert "done        4\n" in out
    assert "failed      edge-popup at 0.9, test_resnet, supermask, seed 1: ValueError: scores" in out
    assert invoke(["status", str(results), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["board"] == "few"
    assert document["counts"] == {"done": 4, "failed": 2}
    assert document["seconds_left"] == 0
    assert {run["hash"] for run in document["runs"]} == {record["hash"] for record in records(results).values()}


def test_a_second_sweep_repeats_no_run(swept, capsys):
    """A second sweep executes no run and changes no file of a run; earlier failures still give exit code 1."""
    _, results, _ = swept
    before = modification_times(results)
    assert again(swept) == 1
    assert "0 runs executed" in capsys.readouterr().out
    assert modification_times(results) == before


@pytest.mark.slow
def test_failures_outside_the_selection_do_not_count(swept):
    """If all selected methods are done, the exit code is 0, although other methods of the board failed."""
    assert again(swept, "--only", "magnitude", "--only", "dense") == 0


def test_plan_only_prints_the_missing_runs(swept, capsys):
    """After a sweep `--plan-only` prints no line, and with `--retry-failed` one line for each failed run."""
    assert again(swept, "--plan-only") == 0
    assert capsys.readouterr().out == ""
    again(swept, "--plan-only", "--retry-failed")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("pruneboard run --method edge-popup ") for line in lines)


def test_a_reused_process_does_not_change_the_result(swept, tmp_path, capsys):
    """The record of the third run of a process is that of the same run in a new process, except for peak memory."""
    board, results, _ = swept
    invoke(["sweep", str(board), "--results", str(tmp_path), "--device", "cpu", "--plan-only", "--seeds", "1"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "magnitude" in line)
    program, *arguments = shlex.split(line)
    assert program == "pruneboard"
    subprocess.run(
        [sys.executable, "-m", program, *arguments, "--quiet"], env=ONE_THREAD, stdout=subprocess.DEVNULL, check=True
    )
    (alone,) = records(tmp_path).values()
    assert canonical(alone) == canonical(records(results)["magnitude", 0])


def test_failed_runs_are_repeated_on_request(swept, capsys):
    """`--retry-failed` repeats a failed run and keeps the record of the first failure."""
    _, results, _ = swept
    assert again(swept, "--retry-failed", "--seeds", "1", "--fail-fast") == 1
    assert "1 runs executed, 1 failed" in capsys.readouterr().out
    (kept,) = results.rglob("failures/*.json")
    assert json.loads(kept.read_text())["status"] == "failed"
    assert kept.parent.parent.name.startswith("edge-popup-s0.9-seed0-")


# Stopped sweeps


@pytest.mark.slow
def test_a_sweep_killed_three_times_has_the_same_results(swept, tmp_path):
    """After `kill -9` at random moments the same command ends with the same weights, masks and metrics."""
    board, results, _ = swept
    moments = random.Random(7)
    for epochs in (1, 4, 6):
        with running_sweep(board, tmp_path) as process:
            wait_for_epochs(tmp_path, epochs)
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
    assert sweep(board, tmp_path).returncode == 1
    assert outcomes(tmp_path) == outcomes(results)


@pytest.mark.slow
def test_a_stopped_sweep_is_resumed_by_the_same_command(swept, tmp_path):
    """SIGTERM gives exit code 75 and Ctrl-C 130; active runs are saved, and the final results are the same."""
    board, results, _ = swept
    with running_sweep(board, tmp_path) as process:
        wait_for_epochs(tmp_path, 1)
        process.terminate()
        assert "stopped by SIGTERM" in process.stderr.read()
    assert process.returncode == 75
    assert "interrupted" in {record["status"] for record in records(tmp_path).values()}
    with running_sweep(board, tmp_path) as process:
        wait_for_epochs(tmp_path, 4)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole process group
        assert "stopped by Ctrl-C" in process.stderr.read()
    assert process.returncode == 130
    assert sweep(board, tmp_path).returncode == 1
    assert outcomes(tmp_path) == outcomes(results)


@pytest.mark.slow
def test_parallel_runs_have_the_same_records(swept, tmp_path):
    """With the same number of threads a record does not depend on the runs beside it."""
    board, results, _ = swept
    assert sweep(board, tmp_path, "--jobs", "2").returncode == 1
    together = {key: canonical(record) for key, record in records(tmp_path).items()}
    assert together == {key: canonical(record) for key, record in records(results).items()}
