"""`pruneboard sweep`: a board from its file to its leaderboard; stopped anywhere and gone on with, it ends the same."""

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

from pruneboard.cli import invoke
from pruneboard.records import store
from pruneboard.records.schema import canonical
from pruneboard.sweeps import estimate
from pruneboard.sweeps.executors.workers import Outcome

DATA = """
name = "digits"
train = 142
test = 355
classes = 10
side = 8
limit_train = 142
"""

CIFAR10 = """
name = "cifar10"
train = 50000
test = 10000
classes = 10
side = 32
"""

BOARD = """
title = "a few digits"
models = ["test_resnet"]
seeds = 2
[data]
{data}
[training]
epochs = 2
batch_size = 32
image_size = 16
warmup_epochs = 0
[tracks.prune]
sparsities = [0.5]
[tracks.supermask]
sparsities = [0.9]
[[methods]]
name = "magnitude"
[[methods]]
name = "edge-popup"
options = {{ lr = 1e30 }}
[[methods]]
name = "dense"
"""
"""Four runs that go well, two of an option that no training survives."""

PATIENCE = 600
"""Seconds after which a sweep of this board is taken for stuck."""


def board_file(folder, data=DATA):
    """Write the board."""
    path = folder / "few.toml"
    path.write_text(BOARD.format(data=data))
    return path


def words(board, results, *flags):
    """The command line of a sweep, in a process of its own."""
    command = [sys.executable, "-m", "pruneboard", "sweep", str(board), "--results", str(results)]
    return [*command, "--device", "cpu", "--jobs", "1", *flags]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""Sums in another order are other numbers."""


def sweep(board, results, *flags):
    """Run a sweep to its end."""
    command = words(board, results, *flags)
    return subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=PATIENCE, check=False)


@contextmanager
def sweeping(board, results, *flags):
    """Start a sweep in a session of its own, as a terminal or a job does; nothing of it is left behind."""
    command = words(board, results, "--quiet", *flags)
    process = subprocess.Popen(
        command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        with process:
            yield process
        assert gone(process.pid)
    finally:
        if not gone(process.pid, 0):
            os.killpg(process.pid, signal.SIGKILL)


def gone(group, patience=30):
    """Whether every process of a group has ended, or does so soon."""
    deadline = time.monotonic() + patience
    while subprocess.run(["pgrep", "-g", str(group)], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def reach(results, epochs):
    """Wait until so many epochs of all runs together are done."""
    deadline = time.monotonic() + PATIENCE
    while sum(path.read_bytes().count(b"\n") for path in results.rglob("metrics.jsonl")) < epochs:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def records(results):
    """(method, seed) -> record."""
    found = [record for _, record in store.scan([results], without=results / "leaderboard").records]
    return {(record["method"]["name"], record["seed"]): record for record in found}


def outcomes(results):
    """(method, seed) -> what must not depend on how often a sweep was stopped."""
    return {
        key: [record["status"], *(record.get(name) for name in ("weights_sha256", "mask_sha256", "metrics"))]
        for key, record in records(results).items()
    }


def stamps(results):
    """When each file of each run was last written."""
    folders = [path.parent for path in results.rglob("run.json")]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The board, its results folder after an uninterrupted sweep, and what that sweep said."""
    folder = tmp_path_factory.mktemp("sweep")
    board = board_file(folder)
    return board, folder / "results", sweep(board, folder / "results")


def again(swept, *flags):
    """Run a sweep of the same board into the same folder in this process, and return its exit code."""
    board, results, _ = swept
    return invoke(["sweep", str(board), "--results", str(results), "--device", "cpu", "--jobs", "1", *flags])


def test_a_failed_run_is_a_row_and_the_exit_code(swept):
    """The others go on, the failure says why, and the leaderboard has both."""
    _, results, said = swept
    assert said.returncode == 1, said.stderr
    assert "Traceback" not in said.stderr
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
    assert "6 runs carried out, 2 failed" in said.stdout
    assert "edge-popup" in said.stdout
    files = {path.suffix for path in (results / "leaderboard").iterdir()}
    assert {".html", ".md", ".csv", ".json"} <= files
    assert "edge-popup" in next((results / "leaderboard").glob("*.md")).read_text()


def test_each_run_ends_with_a_line_of_progress(swept):
    """What came of it, how many are done, and about how long the rest takes."""
    lines = [line for line in swept[2].stderr.splitlines() if line.startswith("[")]
    assert len(lines) == 6
    assert lines[0].startswith("[1/6] dense, test_resnet, prune, seed 0: ")
    assert "ETA" in lines[0]
    assert "ETA" not in lines[-1]
    assert sum("failed: ValueError: scores must be finite" in line for line in lines) == 2


def test_status_says_how_far_it_is(swept, capsys):
    """In lines, and as one JSON document."""
    _, results, _ = swept
    assert invoke(["status", str(results)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("few: 6 runs\n")
    assert "done        4\n" in said
    assert "failed      edge-popup at 0.9, test_resnet, supermask, seed 1: ValueError: scores" in said
    assert invoke(["status", str(results), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["board"] == "few"
    assert document["counts"] == {"done": 4, "failed": 2}
    assert document["seconds_left"] == 0
    assert {run["hash"] for run in document["runs"]} == {record["hash"] for record in records(results).values()}


def test_what_is_done_is_not_run_again(swept, capsys):
    """A second sweep writes the leaderboard and nothing else; the failures still stand, and still count."""
    _, results, _ = swept
    before = stamps(results)
    assert again(swept) == 1
    assert "0 runs carried out" in capsys.readouterr().out
    assert stamps(results) == before


@pytest.mark.slow
def test_rows_that_went_well_are_exit_code_0(swept):
    """Failures of rows that were not asked for do not count."""
    assert again(swept, "--only", "magnitude", "--only", "dense") == 0


def test_missing_runs_are_lines_for_array_jobs(swept, capsys):
    """None after a sweep, the failed ones on request, all of them elsewhere."""
    assert again(swept, "--plan-only") == 0
    assert capsys.readouterr().out == ""
    again(swept, "--plan-only", "--retry-failed")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("pruneboard run --method edge-popup ") for line in lines)


def test_a_warm_process_changes_nothing(swept, tmp_path, capsys):
    """The record of a run that came third in its process is that of a process of its own, peak memory apart."""
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


def test_failed_runs_are_tried_again_on_request(swept, capsys):
    """The record of the first failure is kept."""
    _, results, _ = swept
    assert again(swept, "--retry-failed", "--seeds", "1", "--fail-fast") == 1
    assert "1 runs carried out, 1 failed" in capsys.readouterr().out
    (kept,) = results.rglob("failures/*.json")
    assert json.loads(kept.read_text())["status"] == "failed"
    assert kept.parent.parent.name.startswith("edge-popup-s0.9-seed0-")


def test_a_dry_run_names_runs_and_time_and_writes_nothing(tmp_path, capsys):
    """From a few steps of each kind of run."""
    results = tmp_path / "results"
    assert invoke(["sweep", str(board_file(tmp_path)), "--results", str(results), "--only", "dense", "--dry-run"]) == 0
    out = capsys.readouterr().out
    said = dict(line.strip().split(maxsplit=1) for line in out.splitlines() if line.strip())
    assert said["runs"] == said["missing"] == "2"
    assert said["to"] == f"run      2, into {results}"
    assert " 2 x " in said["dense,"]
    assert said["time"].split()[1] in ("s", "min")
    assert said["disk"].endswith("MiB")
    assert not results.exists()


def test_what_cannot_be_measured_is_named_and_hides_no_other(tmp_path, capsys, monkeypatch):
    """The estimate goes on without it, and the exit code tells."""
    outcomes = [Outcome(0, "done", {"seconds": 60.0, "disk_bytes": 2**20}), Outcome(1, "failed", message="no step")]
    monkeypatch.setattr(estimate, "_measured", lambda tasks, jobs, threads: outcomes[: len(tasks)])
    flags = ["--only", "dense", "--only", "magnitude", "--dry-run", "--jobs", "1"]
    assert invoke(["sweep", str(board_file(tmp_path)), "--results", str(tmp_path / "results"), *flags]) == 1
    out = capsys.readouterr().out
    assert "cannot be measured: failed: no step" in out
    assert "2 min with 1 at once" in out


def test_a_board_can_be_listed_without_its_images(tmp_path, capsys):
    """Which runs there are does not depend on where the images are; to carry them out, they have to be named."""
    results = tmp_path / "results"
    arguments = ["sweep", str(board_file(tmp_path, CIFAR10)), "--results", str(results)]
    assert invoke([*arguments, "--plan-only"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert all("--dataset cifar10" in line for line in out.splitlines())
    assert "--data-dir" in err
    assert invoke(arguments) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert not results.exists()


IMAGENET = """
name = "imagenet"
train = 1281167
test = 50000
classes = 1000
side = 224
"""


def test_images_that_stream_are_estimated_too(tmp_path, capsys):
    """Large images stream from files, with the augmentation that only files have; so does the noise that stands in."""
    arguments = ["sweep", str(board_file(tmp_path, IMAGENET)), "--results", str(tmp_path / "results")]
    assert invoke([*arguments, "--dry-run", "--json", "--only", "dense", "--seeds", "1"]) == 0
    [row] = json.loads(capsys.readouterr().out)["estimate"]["rows"]
    assert row["problem"] == ""
    assert row["seconds"] > 60  # a million images, twice


@pytest.mark.slow
def test_a_board_can_be_estimated_without_its_images(tmp_path, capsys):
    """What a run takes depends on how many images there are and how large they are, not on which."""
    arguments = ["sweep", str(board_file(tmp_path, CIFAR10)), "--results", str(tmp_path / "results")]
    assert invoke([*arguments, "--dry-run", "--json", "--only", "magnitude", "--seeds", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"unknown": 1}
    assert document["estimate"]["seconds"] > 0
    assert document["estimate"]["rows"][0]["runs"] == document["to_run"] == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--jobs", "0"], "--jobs is a number of 1 or more"),
        (["--jobs", "²"], "--jobs is a number of 1 or more"),
        (["--procs", "0"], "--procs is the number"),
        (["--seeds", "x"], "--seeds is a count"),
        (["--seeds", "3"], "no seed 2"),
        (["--only", "gmp"], "method of board few"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, capsys, flags, said):
    """Exit code 2, and nothing is written."""
    results = tmp_path / "results"
    assert invoke(["sweep", str(board_file(tmp_path)), "--results", str(results), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not results.exists()


# Stopped and gone on with


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_the_same(swept, tmp_path):
    """Kill -9 at any moment costs what was not saved: the same command comes to the same weights, masks and metrics."""
    board, results, _ = swept
    moments = random.Random(7)
    for epochs in (1, 4, 6):
        with sweeping(board, tmp_path) as process:
            reach(tmp_path, epochs)
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
    assert sweep(board, tmp_path).returncode == 1
    assert outcomes(tmp_path) == outcomes(results)


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_with_the_same_command(swept, tmp_path):
    """SIGTERM is exit code 75 and Ctrl-C 130; what was under way is saved, and the rest is as if nothing had been."""
    board, results, _ = swept
    with sweeping(board, tmp_path) as process:
        reach(tmp_path, 1)
        process.terminate()
        assert "stopped by SIGTERM" in process.stderr.read()
    assert process.returncode == 75
    assert "interrupted" in {record["status"] for record in records(tmp_path).values()}
    with sweeping(board, tmp_path) as process:
        reach(tmp_path, 4)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
        assert "stopped by Ctrl-C" in process.stderr.read()
    assert process.returncode == 130
    assert sweep(board, tmp_path).returncode == 1
    assert outcomes(tmp_path) == outcomes(results)


@pytest.mark.slow
def test_several_runs_at_once_are_the_same_runs(swept, tmp_path):
    """With the same threads each, no record depends on what ran beside it."""
    board, results, _ = swept
    assert sweep(board, tmp_path, "--jobs", "2").returncode == 1
    together = {key: canonical(record) for key, record in records(tmp_path).items()}
    assert together == {key: canonical(record) for key, record in records(results).items()}
