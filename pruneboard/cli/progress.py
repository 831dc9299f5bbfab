"""Progress on standard error: live bars on a terminal; elsewhere lines, so that nothing is silent for long.

`pruneboard run` passes one of the listeners to the run. Other commands show the phases that are reported while they
work: `with shown(quiet=...)`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pruneboard.errors import printable
from pruneboard.processes import phases

if TYPE_CHECKING:
    from pruneboard.training.state import Listener

SILENCE_SECONDS = 1.5
"""Time after the last line from which a line says what is under way."""

POLL_SECONDS = 0.25

BAR_WIDTH = 12
"""Narrow, so that the names of phases fit into a line of 80 characters."""


class Pace:
    """Estimates the remaining time from the steps of this attempt; a resumed run does not start at step 0."""

    def __init__(self) -> None:
        """Start without a step."""
        self.step = self.total = 0
        self._first: tuple[int, float] | None = None

    def update(self, step: int, total: int) -> None:
        """Store that `step` of `total` steps are done."""
        self.step, self.total = step, total
        self._first = self._first or (step, time.monotonic())

    def remaining(self) -> str:
        """Return the remaining time as `m:ss`; `-:--` until a step was taken."""
        first, since = self._first or (self.step, 0.0)
        if self.step <= first:
            return "-:--"
        left = int((time.monotonic() - since) / (self.step - first) * max(0, self.total - self.step))
        return f"{left // 60}:{left % 60:02}"


class LineProgress:
    """Prints a line per phase and epoch, for logs, pipes and batch jobs, and in between one after a short silence."""

    def __init__(self) -> None:
        """Create the listener; its thread starts with the first call, because it cannot be pickled."""
        self._pace = Pace()
        self._loss = ""
        self._epoch = 0
        self._phase = ("", 0, 0)
        self._since = self._printed = time.monotonic()
        self._ended: threading.Event | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a listener that was not called yet: the process that receives it reports from then on."""
        return type(self), ()

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Store the step; it is printed after a silence."""
        self._phase = ("", 0, 0)
        self._pace.update(step, total)
        if loss is not None:
            self._loss = f"  loss {loss:.3f}"
        self._watch()

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch, and the remaining time at the average speed so far."""
        self._pace.update(row["step"], self._pace.total)
        self._epoch = row["epoch"]
        self._print(f"{self._position(row['epoch'])}  {_figures(row)}  ETA {self._pace.remaining()}")

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """During the training, print a message that counts nothing; all others are printed after a silence.

        So a command that is refused prints nothing but the error, unless that takes long.
        """
        if message != self._phase[0]:
            self._since = time.monotonic()
            if self._pace.total and not done:
                self._print(printable(message))
        self._phase = (message, done, total)
        self._watch()

    def on_end(self) -> None:
        """Print nothing more."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def _position(self, epoch: int) -> str:
        return f"epoch {epoch:>3}  step {self._pace.step}/{self._pace.total}"

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        print(line, file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """Start the thread that breaks the silence, which also ends with the process."""
        if self._ended is None:
            self._ended = threading.Event()
            with suppress(RuntimeError):  # no further thread can be started: only the silence stays unbroken
                threading.Thread(target=self._break_silence, args=(self._ended,), daemon=True).start()

    def _break_silence(self, ended: threading.Event) -> None:
        while not ended.wait(POLL_SECONDS):
            if time.monotonic() - self._printed >= SILENCE_SECONDS:
                self._print(self._status())

    def _status(self) -> str:
        message, done, total = self._phase
        if message:
            seconds = time.monotonic() - self._since
            return printable(phases.number(message, done, total)) + (f" ({seconds:.0f} s)" if seconds >= 1 else "")
        return f"{self._position(self._epoch + 1)}{self._loss}  ETA {self._pace.remaining()}"


class LiveProgress:
    """Shows a bar with the steps and the remaining time, one for any other phase, and above them a line per epoch."""

    def __init__(self) -> None:
        """Create the listener; the bars start with the first call, because they cannot be pickled."""
        self._bars: Progress | None = None
        self._pace = Pace()
        self._steps: TaskID | None = None
        self._phase: TaskID | None = None
        self._loss = self._message = ""
        self._epoch = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a listener that was not called yet: the process that receives it reports from then on."""
        return type(self), ()

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Advance the bar of the steps, and hide that of the phase."""
        bars = self._start()
        if loss is not None:
            self._loss = f"loss {loss:.3f}  "
        self._pace.update(step, total)
        self._hide_phase()
        description = f"epoch {self._epoch + 1}  step {step}/{total}"
        text = f"{self._loss}ETA {self._pace.remaining()}"
        if self._steps is None:
            self._steps = bars.add_task(description, total=total, text=text)
        bars.update(self._steps, description=description, completed=step, total=total, text=text)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Print the figures of the epoch above the bars."""
        self._epoch = row["epoch"]
        line = f"epoch {row['epoch']:>3}  step {row['step']}/{self._pace.total}  {_figures(row)}"
        self._start().console.print(line, markup=False, highlight=False)

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """Show the phase in a bar, and during the training print a message that counts nothing above the bars."""
        bars = self._start()
        if message != self._message:
            self._hide_phase()
            self._message = message
            if self._pace.total and not done:
                bars.console.print(printable(message), style="dim", markup=False, highlight=False)
        text = printable(phases.number(message, done, total))
        if self._phase is None:
            self._phase = bars.add_task(text, total=None, text="")
        bars.update(self._phase, description=text, completed=done, total=total or None)
        if done <= 1:  # a phase that ends before the next refresh is seen too
            bars.refresh()

    def on_end(self) -> None:
        """Leave the bar of the steps as it is, and release the terminal."""
        self._hide_phase()
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._steps = None

    def _hide_phase(self) -> None:
        if self._bars is not None and self._phase is not None:
            self._bars.remove_task(self._phase)
        self._phase, self._message = None, ""

    def _start(self) -> Progress:
        if self._bars is None:
            columns = (
                *(TextColumn("{task.description}", markup=False), BarColumn(BAR_WIDTH), TimeElapsedColumn()),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            with suppress(RuntimeError):  # no further thread can be started: the bars are not animated
                self._bars.start()
        return self._bars


def listener() -> Listener:
    """Return the listener for standard error: live bars on a terminal that can move its cursor, else lines."""
    return LiveProgress() if is_live() else LineProgress()


def is_live() -> bool:
    """Return whether standard error is a terminal on which bars can be drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb").lower() not in {"dumb", "unknown", ""}


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[None]:
    """Show the phases that are reported during the block on standard error, unless `quiet`."""
    if quiet:
        yield
        return
    display = listener()
    try:
        with phases.reported_to(display.on_phase):
            yield
    finally:
        display.on_end()


def _figures(row: Mapping[str, Any]) -> str:
    figures = [
        f"loss {row['loss']:.3f}",
        f"validation {row['validation']['top1']:.2%}",
        f"sparsity {row['sparsity']:.4f}",
        *(f"{printable(name.replace('_', ' '))} {value:.3g}" for name, value in row["diagnostics"].items()),
    ]
    return "  ".join(figures)
