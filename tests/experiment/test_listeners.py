"""Observers of a run: metrics, log and event files."""

from __future__ import annotations

import json
import logging
import logging.handlers

import pytest

from pruneboard.errors import StoreError
from pruneboard.experiment.listeners import Recorder, log_to_file, logger, notes_to, say
from runs import folder, run


def test_tensorboard_events(tmp_path):
    """With `tensorboard`, the run's folder has event files with one value per epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(folder(tmp_path) / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("validation/top1")) == 2


ROW = {
    "epoch": 1,
    "step": 4,
    "loss": 2.0,
    "lr": 0.1,
    "sparsity": 0.5,
    "validation": {"top1": 0.25, "loss": 2.0},
    "mask": {},
    "layers": {},
    "diagnostics": {},
}


class Calls:
    """A listener that remembers its calls."""

    def __init__(self):
        self.seen = []

    def on_step(self, *arguments):
        self.seen.append(("step", *arguments))

    def on_epoch(self, row):
        self.seen.append(("epoch", row))

    def on_phase(self, message, done=0, total=0):
        self.seen.append(("phase", message, done, total))

    def on_end(self):
        self.seen.append(("end",))


def test_the_recorder_writes_metrics_and_forwards_every_call(tmp_path):
    """The user's listener gets each call once and in order, and each epoch is a line of metrics.jsonl."""
    calls = Calls()
    recorder = Recorder(tmp_path, calls)
    recorder.on_phase("hardening")
    recorder.on_step(4, 8, 2.0)
    recorder.on_epoch(ROW)
    recorder.on_epoch(ROW | {"epoch": 2})
    recorder.on_phase("sample", 3, 10)
    recorder.on_end()
    expected = [
        *(("phase", "hardening", 0, 0), ("step", 4, 8, 2.0), ("epoch", ROW), ("epoch", ROW | {"epoch": 2})),
        *(("phase", "sample", 3, 10), ("end",)),
    ]
    assert calls.seen == expected
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [ROW, ROW | {"epoch": 2}]
    assert not (tmp_path / "tensorboard").exists()


def test_the_log_file_has_messages_from_its_level_on(tmp_path):
    """Logging is as before after the block, even if it raises."""
    before = (logger.level, list(logger.handlers))

    def fail():
        with log_to_file(tmp_path / "log.txt", logging.ERROR):
            logger.info("quiet")
            logger.error("loud")
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        fail()
    logger.error("late")
    text = (tmp_path / "log.txt").read_text()
    assert "ERROR loud" in text
    assert "quiet" not in text
    assert "late" not in text
    assert (logger.level, list(logger.handlers)) == before


def test_the_log_file_is_created_by_its_first_message_and_only_in_an_existing_folder(tmp_path):
    """On a host that does not see the run's folder, nothing is created and nothing fails."""
    with log_to_file(tmp_path / "log.txt", logging.INFO):
        assert not (tmp_path / "log.txt").exists()
    with log_to_file(tmp_path / "missing" / "log.txt", logging.INFO):
        logger.error("unheard")
    assert list(tmp_path.iterdir()) == []


def test_notes_reach_one_handler_during_a_block(capsys):
    """Notes go to standard error or to the caller's handlers; in a block, only to the handler that it names."""
    kept = logging.handlers.BufferingHandler(9)
    with notes_to(kept):
        say(["one"])
    assert [record.getMessage() for record in kept.buffer] == ["note: one"]
    assert capsys.readouterr().err == ""
    say(["two"])
    assert len(kept.buffer) == 1


def test_metrics_of_the_last_epoch_that_cannot_be_written_end_no_run(tmp_path, caplog):
    """Of the last epoch, a file that cannot be written is said; before, it fails the run, which can be repeated."""
    recorder = Recorder(tmp_path / "missing", calls := Calls())
    recorder.on_step(1, ROW["step"] + 1, None)
    with pytest.raises(StoreError):
        recorder.on_epoch(ROW)
    recorder.on_step(1, ROW["step"], None)
    recorder.on_epoch(ROW)
    assert calls.seen[-1] == ("epoch", ROW)
    assert "metrics.jsonl: No such file or directory: the metrics of the last epoch are missing there" in caplog.text


@pytest.mark.parametrize("target", ["folder", "/dev/full"])
def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, capfd, target):
    """Lines of a log file that cannot be opened or written are lost without a word."""
    log = tmp_path / "log.txt"
    if target == "folder":
        log.mkdir()
    else:
        log.symlink_to(target)
    with log_to_file(log, logging.INFO):
        logger.info("a line")
    assert capfd.readouterr().err == ""
