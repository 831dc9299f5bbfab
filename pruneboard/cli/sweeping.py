"""What a person sees while a sweep goes on: a bar on a terminal, a line per finished run elsewhere; all on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing itself from Python 3.11 on

    from pruneboard.sweeps.conduct import Progress
    from pruneboard.sweeps.executors.workers import Outcome
    from pruneboard.sweeps.plan import Cell


class Shown:
    """Watches a sweep for a person."""

    def __init__(self, *, quiet: bool, live: bool) -> None:
        """Start before the first run."""
        self._quiet = quiet
        self._began = time.monotonic()
        self._bars: Bars | None = None
        if live and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bars = Bars(*columns, console=Console(stderr=True))
        self._tasks: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()

    def on_start(self, title: str, counts: dict[str, int], missing: int) -> None:
        """Say what there is to do."""
        there = ", ".join(f"{count} {status}" for status, count in counts.items())
        self._say(f"{title}: {there}; {missing} to run")
        if self._bars is not None:
            self._tasks[-1] = self._bars.add_task("runs", total=missing, note="")

    def on_end(self, cell: Cell, outcome: Outcome, progress: Progress) -> None:
        """Say how a run ended, and how long the rest takes at the pace so far."""
        if outcome.status == "done":
            how = f"{outcome.value['top1']:.2%} in {outcome.value['seconds']:.0f} s"
        else:
            how = f"{outcome.status}: {outcome.message}"
        left = self._left(progress)
        self._say(f"[{progress.done}/{progress.total}] {cell.label}: {how}{left and f'  ETA {left}'}")

    def on_look(self, progress: Progress) -> None:
        """Move the bars."""
        bars = self._bars
        if bars is None:
            return
        bars.update(self._tasks[-1], completed=progress.done, note=f"ETA {self._left(progress)}")  # type: ignore[arg-type]
        for key in [key for key in self._tasks if key >= 0 and key not in progress.running]:
            bars.remove_task(self._tasks.pop(key))  # type: ignore[arg-type]
        for key, (cell, steps) in progress.running.items():
            if key not in self._tasks:
                self._tasks[key] = bars.add_task(f"  {cell.label}", total=None, note="")
            if steps is not None:
                bars.update(self._tasks[key], completed=steps[0], total=steps[1])  # type: ignore[arg-type]

    def _left(self, progress: Progress) -> str:
        if not progress.done or progress.done == progress.total:
            return ""
        left = (time.monotonic() - self._began) / progress.done * (progress.total - progress.done)
        return f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
