"""The progress of a sweep on standard error: a line for each finished run, and bars on a terminal."""

from __future__ import annotations

import pytest

from pruneboard.cli.sweep_progress import SweepDisplay
from pruneboard.sweeps.executors.workers import Outcome
from pruneboard.sweeps.scheduler import SweepProgress
from scheduler_cases import planned_runs

DONE = Outcome(0, "done", {"top1": 0.875, "seconds": 12.3})
FAILED = Outcome(1, "failed", message="[red]no more[/red]")


def show(display):
    """Show a sweep of two runs: the first one succeeds and the second one fails."""
    first, second = planned_runs(2)
    progress = SweepProgress(2, {}, {0: (first, None), 1: (second, (3, 8))})
    with display:
        display.on_start("a board", {"done": 4, "missing": 2}, 2)
        display.on_poll(progress)
        for key, run, outcome in ((0, first, DONE), (1, second, FAILED)):
            del progress.active[key]
            progress.ended[outcome.status] = 1
            display.on_end(run, outcome, progress)
            display.on_poll(progress)


@pytest.mark.parametrize("live", [False, True])
def test_every_finished_run_is_one_line(capsys, monkeypatch, live):
    """With and without bars every run has one line with its result, and standard output stays empty."""
    monkeypatch.setenv("COLUMNS", "200")
    show(SweepDisplay(quiet=False, live=live))
    out, err = capsys.readouterr()
    assert out == ""
    assert "a board: 4 done, 2 missing; 2 to run\n" in err
    first, second = (line for line in err.splitlines() if line.startswith("["))
    assert first.startswith("[1/2] a, b, None, seed 0: 87.50% in 12 s  ETA 0:00:0")
    assert second.rstrip() == "[2/2] a, b, None, seed 1: failed: [red]no more[/red]"


def test_quiet_prints_nothing(capsys):
    """With `--quiet` nothing is printed, not even bars on a terminal."""
    show(SweepDisplay(quiet=True, live=True))
    assert capsys.readouterr() == ("", "")


def test_there_is_a_bar_for_every_active_run():
    """On a terminal there is one bar for the sweep and one for each active run, with its steps."""
    display = SweepDisplay(quiet=False, live=True)
    first, second = planned_runs(2)
    with display:
        display.on_start("a board", {}, 2)
        display.on_poll(SweepProgress(2, {}, {0: (first, None), 1: (second, (3, 8))}))
        assert [(task.completed, task.total) for task in display._bars.tasks] == [(0, 2), (0, None), (3, 8)]
        display.on_poll(SweepProgress(2, {"done": 1}, {1: (second, (5, 8))}))
        assert [(task.completed, task.total) for task in display._bars.tasks] == [(1, 2), (5, 8)]
