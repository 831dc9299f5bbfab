"""Execute one run of a sweep: the function that every executor calls in its worker process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.experiment import lifecycle, listeners
from pruneboard.spec import RunSpec


def execute_run(spec: RunSpec, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Execute a run and return its `progress_summary`.

    Args:
        spec: the run.
        on_step: called with the number of finished steps and the total number of steps.
    """
    with listeners.notes_to(logging.NullHandler()):  # the sweep has printed them once
        return progress_summary(lifecycle.run(spec, StepListener(on_step)))


def progress_summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a finished record that a progress line shows: test top-1, and wall time in seconds."""
    return {"top1": record["metrics"]["test"]["top1"], "seconds": record["cost"]["wall_seconds"]}


@dataclass
class StepListener(listeners.NullListener):
    """A listener that forwards steps only."""

    callback: Callable[[int, int], None]

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Call `callback(step, total)`."""
        del loss
        self.callback(step, total)
