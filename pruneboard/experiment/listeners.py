"""Observers of a run: the metrics file, the log file, and event files for TensorBoard."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.records import runfolder
from pruneboard.training.state import Listener

logger = logging.getLogger("pruneboard")

_notes = logging.getLogger("pruneboard.notes")
"""Receives, as warnings, what a user should know about a run before its first step."""


def say(lines: Iterable[str]) -> None:
    """Tell the user something before the first step; without a handler, Python prints it on standard error."""
    for line in lines:
        _notes.warning("note: %s", line)


@contextmanager
def notes_to(handler: logging.Handler) -> Iterator[None]:
    """During the block, send to `handler` alone what `say` tells the user."""
    before, _notes.propagate = _notes.propagate, False
    _notes.addHandler(handler)
    try:
        yield
    finally:
        _notes.removeHandler(handler)
        _notes.propagate = before


class NullListener:
    """A listener that ignores everything."""

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Ignore it."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Ignore it."""

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """Ignore it."""

    def on_end(self) -> None:
        """Ignore it."""


@dataclass
class Recorder:
    """Writes `metrics.jsonl`, `log.txt` and event files, and forwards every call to the user's listener."""

    folder: Path
    listener: Listener
    tensorboard: bool = False
    steps: int = 0
    """Number of steps of the whole training; 0 before the first report."""

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Forward the call."""
        self.steps = total
        self.listener.on_step(step, total, loss)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Append the epoch to `metrics.jsonl`, then forward the call.

        A line of the last epoch that cannot be written is only said: the trained network is worth more.
        """
        try:
            runfolder.append_metrics(self.folder, row)
        except StoreError as error:
            if row["step"] < self.steps:
                raise
            say([f"{error}: the metrics of the last epoch are missing there"])
        logger.info("epoch %s: validation top-1 %.4f", row["epoch"], row["validation"]["top1"])
        if self.tensorboard:
            _write_events(self.folder / "tensorboard", row)
        self.listener.on_epoch(row)

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """Log the message, unless it counts something, and forward the call."""
        if not done:
            logger.info(message)
        self.listener.on_phase(message, done, total)

    def on_end(self) -> None:
        """Forward the call."""
        self.listener.on_end()


def _write_events(folder: Path, row: Mapping[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    scalars = {"loss": row["loss"], "lr": row["lr"], "sparsity": row["sparsity"]}
    scalars |= {f"validation/{name}": value for name, value in row["validation"].items()}
    for block in ("mask", "layers", "diagnostics"):
        scalars |= {f"{block}/{name}": value for name, value in row[block].items()}
    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, row["step"])


class _LogFile(logging.FileHandler):
    """A log file that is created by its first line, and only where the run's folder exists.

    Only rank 0 creates the folder, and other hosts may not see it. A line that cannot be written ends no run.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line if the folder exists."""
        with suppress(OSError):  # of opening the file
            if Path(self.baseFilename).parent.is_dir():
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is that of logging
        """Ignore a file that cannot be written."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, also if its last lines cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to_file(path: Path, level: int) -> Iterator[None]:
    """Write pruneboard's log messages of `level` and above to the file `path` during the block."""
    # Without any handler, logging would print tracebacks on standard error.
    handler = _LogFile(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()
