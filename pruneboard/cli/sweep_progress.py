"""Progress of a sweep on standard error: bars on a terminal, and one line for each finished run."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` since Python 3.11

    from pruneboard.sweeps.executors.workers import Outcome
    from pruneboard.sweeps.plan import PlannedRun
    from pruneboard.sweeps.scheduler import SweepProgress


class SweepDisplay:
    """A listener of a sweep that prints its progress.

    Args:
        quiet: print nothing.
        live: show bars, for a terminal.
    """

    def __init__(self, *, quiet: bool, live: bool) -> None:
        """Start the clock for the estimate of the remaining time."""
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
        """Show the bars."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop updating the bars."""
        if self._bars is not None:
            self._bars.stop()

    def on_start(self, title: str, counts: dict[str, int], missing: int) -> None:
        """Print how many runs of the plan have which status, and how many will be executed."""
        found = ", ".join(f"{count} {status}" for status, count in counts.items())
        self._print(f"{title}: {found}; {missing} to run")
        if self._bars is not None:
            self._tasks[-1] = self._bars.add_task("runs", total=missing, note="")

    def on_end(self, run: PlannedRun, outcome: Outcome, progress: SweepProgress) -> None:
        """Print the result of a run and the estimated remaining time."""
        if outcome.status == "done":
            result = f"{outcome.value['top1']:.2%} in {outcome.value['seconds']:.0f} s"
        else:
            result = f"{outcome.status}: {outcome.message}"
        left = self._time_left(progress)
        self._print(f"[{progress.finished}/{progress.total}] {run.label}: {result}{left and f'  ETA {left}'}")

    def on_poll(self, progress: SweepProgress) -> None:
        """Update the bars: one for the sweep, and one for each active run."""
        bars = self._bars
        if bars is None:
            return
        bars.update(self._tasks[-1], completed=progress.finished, note=f"ETA {self._time_left(progress)}")  # type: ignore[arg-type]
        for key in [key for key in self._tasks if key >= 0 and key not in progress.active]:
            bars.remove_task(self._tasks.pop(key))  # type: ignore[arg-type]
        for key, (run, steps) in progress.active.items():
            if key not in self._tasks:
                self._tasks[key] = bars.add_task(f"  {run.label}", total=None, note="")
            if steps is not None:
                bars.update(self._tasks[key], completed=steps[0], total=steps[1])  # type: ignore[arg-type]

    def _time_left(self, progress: SweepProgress) -> str:
        """Return the remaining time at the mean pace so far; empty before the first and after the last run."""
        if not progress.finished or progress.finished == progress.total:
            return ""
        left = (time.monotonic() - self._began) / progress.finished * (progress.total - progress.finished)
        return f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"

    def _print(self, line: str) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
