"""Progress on standard error: one line per epoch, and the live bar."""

from __future__ import annotations

import pickle
import re
from types import SimpleNamespace

import pytest

from pruneboard.cli import progress
from pruneboard.cli.progress import LineProgress, LiveProgress


def row(epoch, step):
    """The metrics of an epoch."""
    return {
        "epoch": epoch,
        "step": step,
        "loss": 0.5,
        "validation": {"top1": 0.75},
        "sparsity": 0.9,
        "diagnostics": {"mean_probability": 0.125},
    }


@pytest.mark.parametrize("first", [1, 51])
def test_the_remaining_time_follows_the_speed_of_this_attempt(capsys, monkeypatch, first):
    """The time left is the time per step times the steps left; steps before a resumed run started do not count."""
    now = iter([100.0, 166.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    listener = LineProgress()
    listener.on_step(first, 250, 1.0)
    listener.on_step(first + 1, 250, 1.0)
    listener.on_epoch(row(2, 101))
    line = capsys.readouterr().err
    assert line.startswith("epoch   2  step 101/250  loss 0.500  validation 75.00%  sparsity 0.9000  mean probability")
    minutes, seconds = re.search(r"ETA (\d+):(\d\d)$", line).groups()
    assert 60 * int(minutes) + int(seconds) == int(66 / (101 - first) * (250 - 101))


def test_messages_go_to_standard_error(capsys):
    """A message of either listener is printed on standard error, and nothing on standard output."""
    for listener in (LineProgress(), LiveProgress()):
        listener.on_phase("evaluating the test images")
        assert capsys.readouterr() == ("", "evaluating the test images\n")


def test_the_bar_starts_with_the_first_step_and_stops_with_the_last(capsys):
    """The listener can be pickled before the first step; the bar shows loss and epoch, and ends at the last step."""
    listener = pickle.loads(pickle.dumps(LiveProgress()))
    listener.on_step(3, 4, 0.25)
    bar = listener._bar
    assert not bar.finished
    listener.on_epoch(row(1, 3))
    listener.on_step(4, 4, 0.125)
    assert bar.finished
    assert bar.tasks[0].fields == {"loss": "loss 0.125", "row": listener._row}
    assert listener._row.startswith("epoch 1: loss 0.500  validation 75.00%")
    assert not bar.live.is_started
