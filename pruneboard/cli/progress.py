"""Progress of a run on standard error: a live bar on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class LineProgress:
    """Prints one plain line per epoch, for logs, pipes and batch jobs."""

    def __init__(self) -> None:
        """Create the listener before the first step."""
        self._total = 0
        self._first: tuple[int, float] | None = None  # a resumed run does not start at step 0

    def on_step(self, step: int, total: int, loss: float) -> None:
        """Store the budget, and the first step with its time."""
        del loss
        self._total = total
        self._first = self._first or (step, time.monotonic())

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Print the epoch, and the remaining time at the average speed so far."""
        step = row["step"]
        first, since = self._first or (step, time.monotonic())
        left = (time.monotonic() - since) / max(1, step - first) * max(0, self._total - step)
        eta = f"{int(left) // 60}:{int(left) % 60:02}"
        line = f"epoch {row['epoch']:>3}  step {step}/{self._total}  {_figures(row)}  ETA {eta}"
        print(line, file=sys.stderr, flush=True)

    def on_phase(self, message: str) -> None:
        """Print the message."""
        print(message, file=sys.stderr, flush=True)


class LiveProgress:
    """Shows a bar with epoch, loss, validation top-1, sparsity, the method's diagnostics and the remaining time."""

    def __init__(self) -> None:
        """Create the listener; the bar itself is created at the first step, because it cannot be pickled."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._row = ""

    def on_step(self, step: int, total: int, loss: float) -> None:
        """Advance the bar, and stop it after the last step."""
        bar = self._start(step, total)
        bar.update(self._task, completed=step, loss=f"loss {loss:.3f}", row=self._row)
        if step == total:
            bar.stop()

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Show the figures of the epoch next to the bar."""
        self._row = f"epoch {row['epoch']}: {_figures(row)}"
        if self._bar is not None:
            self._bar.update(self._task, row=self._row)

    def on_phase(self, message: str) -> None:
        """Print the message above the bar."""
        (self._bar.console if self._bar is not None else Console(stderr=True)).print(message, style="dim")

    def _start(self, step: int, total: int) -> Progress:
        if self._bar is None:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[row]}"), console=Console(stderr=True))
            self._task = self._bar.add_task("steps", total=total, completed=step, loss="", row="")
            self._bar.start()
        return self._bar


def _figures(row: Mapping[str, Any]) -> str:
    shown = [
        f"loss {row['loss']:.3f}",
        f"validation {row['validation']['top1']:.2%}",
        f"sparsity {row['sparsity']:.4f}",
        *(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row["diagnostics"].items()),
    ]
    return "  ".join(shown)
