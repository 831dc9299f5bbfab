"""`pruneboard sweep` without executing a run: listed and estimated boards, and refused options."""

from __future__ import annotations

import json

import pytest

from board_file_cases import CIFAR10, FEW, IMAGENET, small, write_board
from pruneboard.cli import invoke
from pruneboard.cli.sweep import _duration
from pruneboard.sweeps import estimate
from pruneboard.sweeps.executors.workers import Outcome


def few(folder, **changes):
    """Write the board FEW, with some of its values replaced."""
    return str(write_board(folder, FEW | changes, "few"))


def test_a_dry_run_prints_runs_and_costs_and_writes_nothing(tmp_path, capsys):
    """`--dry-run` prints the number of runs, their estimated time and disk space, and leaves no results folder."""
    results = tmp_path / "results"
    assert invoke(["sweep", few(tmp_path), "--results", str(results), "--only", "dense", "--dry-run"]) == 0
    out = capsys.readouterr().out
    lines = dict(line.strip().split(maxsplit=1) for line in out.splitlines() if line.strip())
    assert lines["runs"] == lines["missing"] == "2"
    assert lines["to"] == f"run      2, into {results}"
    assert " 2 x " in lines["dense,"]
    assert lines["time"].split()[1] in ("s", "min")
    assert lines["disk"].endswith("MiB")
    assert not results.exists()


def test_a_failed_measurement_is_reported_beside_the_others(tmp_path, capsys, monkeypatch):
    """If a method cannot be measured, the estimate of the others is still printed, and the exit code is 1."""
    outcomes = [Outcome(0, "done", {"seconds": 60.0, "disk_bytes": 2**20}), Outcome(1, "failed", message="no step")]
    monkeypatch.setattr(estimate, "_measure_all", lambda tasks, jobs, threads: outcomes[: len(tasks)])
    flags = ["--only", "dense", "--only", "magnitude", "--dry-run", "--jobs", "1"]
    assert invoke(["sweep", few(tmp_path), "--results", str(tmp_path / "results"), *flags]) == 1
    out = capsys.readouterr().out
    assert "cannot be measured: failed: no step" in out
    assert "2 min with 1 at once" in out


def test_a_board_is_listed_without_its_data_set(tmp_path, capsys):
    """Without --data-dir `--plan-only` prints all runs of a board; executing it requires --data-dir."""
    results = tmp_path / "results"
    arguments = ["sweep", few(tmp_path, data=CIFAR10), "--results", str(results)]
    assert invoke([*arguments, "--plan-only"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert all("--dataset cifar10" in line for line in out.splitlines())
    assert "--data-dir" in err
    assert invoke(arguments) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert not results.exists()


@pytest.mark.slow
def test_a_board_with_streamed_images_is_estimated(tmp_path, capsys):
    """Without its data set a board is estimated on noise images, which stream from files if they are large."""
    arguments = ["sweep", few(tmp_path, data=IMAGENET), "--results", str(tmp_path / "results")]
    assert invoke([*arguments, "--dry-run", "--json", "--only", "dense", "--seeds", "1"]) == 0
    [row] = json.loads(capsys.readouterr().out)["estimate"]["rows"]
    assert row["problem"] == ""
    assert row["seconds"] > 60  # two epochs of a million images


@pytest.mark.slow
def test_a_board_is_estimated_without_its_data_set(tmp_path, capsys):
    """The estimate requires the counts and the size of the images in the board file, not the images."""
    arguments = ["sweep", few(tmp_path, data=CIFAR10), "--results", str(tmp_path / "results")]
    assert invoke([*arguments, "--dry-run", "--json", "--only", "magnitude", "--seeds", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"unknown": 1}
    assert document["estimate"]["seconds"] > 0
    assert document["estimate"]["rows"][0]["runs"] == document["to_run"] == 1
    assert not (tmp_path / "results").exists()


def refusal(capsys, tmp_path, board, *flags):
    """Start a sweep that is refused; return its message, which is one line. Nothing is written."""
    results = tmp_path / "results"
    assert invoke(["sweep", str(board), "--quiet", "--results", str(results), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not results.exists()
    return err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "--jobs must be a number of 1 or more"),
        (["--jobs", "²"], "--jobs must be a number of 1 or more"),
        (["--procs", "0"], "--procs must be the number"),
        (["--seeds", "x"], "a count such as 6"),
        (["--seeds", "3"], "no seed 2"),
        (["--only", "gmp"], "method of board few"),
    ],
)
def test_an_invalid_option_is_refused(tmp_path, capsys, flags, message):
    """An invalid count, or a method or seed that the board does not have, is refused in one line with exit code 2."""
    assert message in refusal(capsys, tmp_path, few(tmp_path), *flags)


def test_a_mistyped_key_of_a_board_file_is_refused(tmp_path, capsys):
    """A mistyped key is refused in one line with the closest known key."""
    assert "did you mean precision" in refusal(capsys, tmp_path, write_board(tmp_path, small("precison", "fp32")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (3569.0, "59 min"), (3570.0, "1 h 0 min"), (9000.0, "2 h 30 min")],
)
def test_a_duration_has_a_suitable_unit(seconds, text):
    """A duration is printed in seconds below 90 s, in minutes below an hour, and else in hours and minutes."""
    assert _duration(seconds) == text
