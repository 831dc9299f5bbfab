"""Progress on standard error: lines for logs, and live bars for terminals."""

from __future__ import annotations

import io
import os
import pickle
import pty
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from command_cases import SMALL, swap
from pruneboard.cli import invoke, progress
from pruneboard.cli.progress import LineProgress, LiveProgress, Pace, shown
from pruneboard.processes import phases
from runs import folder

TRAIN = ["run", "--method", "probmask", "--option", "samples=3", "--sparsity", "0.9", *SMALL]
SHORT = swap([*TRAIN, "--epochs", "3"], "--batch-size", "32")
"""A run of one step in each of 3 epochs."""


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


@pytest.fixture
def clock(monkeypatch):
    """The time that listeners see, in `now`."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


@pytest.fixture
def lines(monkeypatch):
    """A listener that prints lines, without the thread that breaks the silence."""
    monkeypatch.setattr(LineProgress, "_watch", lambda self: None)
    return LineProgress()


@pytest.mark.parametrize("first", [0, 1, 51])
def test_the_remaining_time_follows_the_speed_of_this_attempt(clock, first):
    """It is known from the first step taken on; steps before a resumed run started do not count."""
    pace = Pace()
    assert pace.remaining() == "-:--"
    pace.update(first, 250)
    assert pace.remaining() == "-:--"
    clock.now += 66
    pace.update(first + 1, 250)
    minutes, seconds = pace.remaining().split(":")
    assert 60 * int(minutes) + int(seconds) == 66 * (250 - first - 1)


def test_an_epoch_is_one_line_with_the_total_of_all_steps(capsys, clock, lines):
    """The total is known from the report before the first step, also if an epoch has fewer steps than are reported."""
    lines.on_step(0, 160, None)
    clock.now += 8
    lines.on_step(8, 160, None)
    lines.on_epoch(row(1, 8))
    assert capsys.readouterr().err == (
        "epoch   1  step 8/160  loss 0.500  validation 75.00%  sparsity 0.9000  mean probability 0.125  ETA 2:32\n"
    )


def test_what_is_counted_is_printed_only_after_a_silence(capsys, clock, lines):
    """During the training a phase is a line at once, its items are not; the status says what is under way."""
    lines.on_phase("reading")
    lines.on_step(3, 8, None)
    lines.on_phase("hardening")
    lines.on_phase("hardening: sample", 3, 10)
    assert capsys.readouterr().err == "hardening\n"
    clock.now += 5
    assert lines._status() == "hardening: sample 3 of 10 (5 s)"
    lines.on_step(4, 8, 1.25)
    assert lines._status() == "epoch   1  step 4/8  loss 1.250  ETA 0:20"


def test_a_silence_is_broken(capsys, monkeypatch):
    """A phase that reports nothing is named again and again, until the run ends."""
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    listener = LineProgress()
    before = set(threading.enumerate())
    listener.on_phase("reading")
    (thread,) = set(threading.enumerate()) - before
    text = ""
    while text.count("reading") < 3:
        time.sleep(0.01)
        text += capsys.readouterr().err
    listener.on_end()
    listener.on_end()
    thread.join()


@pytest.mark.parametrize("kind", [LineProgress, LiveProgress])
def test_messages_go_to_standard_error(capsys, kind):
    """A phase is printed on standard error without control characters, and nothing on standard output."""
    listener = kind()
    listener.on_step(8, 8, None)
    listener.on_phase("evaluating the\x1b test [images]")
    listener.on_end()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("evaluating the test [images]\n")


@pytest.mark.parametrize("kind", [LineProgress, LiveProgress])
def test_a_listener_can_be_sent_to_another_process(kind):
    """Also a listener that has reported is pickled, as one that has not."""
    listener = kind()
    listener.on_phase("starting 2 processes")
    copy = pickle.loads(pickle.dumps(listener))
    listener.on_end()
    copy.on_step(1, 2, None)
    copy.on_end()


def test_the_bars_show_steps_and_phases_and_end_with_the_run(monkeypatch):
    """Steps and the remaining time are in one bar, the current phase in a second one, epochs in lines above."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=file, force_terminal=True, width=100))
    listener = LiveProgress()
    listener.on_step(0, 4, None)
    listener.on_step(3, 4, 0.25)
    listener.on_epoch(row(1, 3))
    listener.on_phase("hardening: sample", 3, 10)
    bars = listener._bars
    assert [task.description for task in bars.tasks] == ["epoch 1  step 3/4", "hardening: sample 3 of 10"]
    assert [(task.completed, task.total) for task in bars.tasks] == [(3, 4), (3, 10)]
    assert re.fullmatch(r"loss 0.250  ETA \d+:\d\d", bars.tasks[0].fields["text"])
    listener.on_step(4, 4, 0.125)
    assert [task.description for task in bars.tasks] == ["epoch 2  step 4/4"]
    assert bars.live.is_started
    listener.on_end()
    assert not bars.live.is_started
    assert "epoch   1  step 3/4  loss 0.500  validation 75.00%" in file.getvalue()


def test_reported_phases_are_shown_during_a_block(capsys, monkeypatch):
    """Inside `shown` a reported phase is printed after a silence, also if the block fails; with `quiet` nothing is."""
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    text = ""

    def fail(quiet):
        nonlocal text
        phases.report("measuring")
        while not (quiet or text):
            time.sleep(0.01)
            text += capsys.readouterr().err
        raise ValueError("x")

    for quiet in (True, False):
        with pytest.raises(ValueError, match="x"), shown(quiet=quiet):
            fail(quiet)
    phases.report("outside")
    text += capsys.readouterr().err
    assert set(text.splitlines()) == {"measuring"}


def test_a_command_that_is_refused_at_once_prints_only_the_error(tmp_path, capfd, monkeypatch):
    """Phases before the training are printed only if they take long."""
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 60.0)
    assert invoke([*swap(SHORT, "--epochs", "1"), "--warmup-epochs", "9", "--results", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: the warm-up takes")


def test_every_phase_of_a_run_has_a_name(tmp_path):
    """The log of a run names each phase, and each epoch is a line with its step and the total."""
    command = [sys.executable, "-m", "pruneboard", *SHORT, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = ("building", "starting", "hardening: choosing", "evaluating", "saving")
    log = (folder(tmp_path) / "log.txt").read_text()
    found = [next((kind for kind in kinds if kind in line), "") for line in log.splitlines()]
    assert list(dict.fromkeys(kind for kind in found if kind)) == list(kinds)
    steps = re.findall(r"^epoch +(\d+)  step (\d+)/(\d+)  loss [^ ]+  validation", done.stderr, re.MULTILINE)
    assert steps == [("1", "1", "3"), ("2", "2", "3"), ("3", "3", "3")]


def test_a_terminal_shows_bars(tmp_path):
    """On a terminal, hardening counts its samples, the total is right from the start, and the cursor comes back."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pruneboard", *SHORT, "--results", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm"}  # without it, or with "dumb", lines are printed
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            text += part
        assert process.wait() == 0
    os.close(ours)
    shown = text.decode()
    assert re.search(r"step \d/3", shown)
    assert "/0 " not in shown
    assert "hardening: sample" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
