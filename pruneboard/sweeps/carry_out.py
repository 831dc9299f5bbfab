"""One task of a sweep, in whatever process it falls to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard import experiment
from pruneboard.spec import RunSpec


def carry_out(spec: RunSpec, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Carry out a run and return what a line of progress needs.

    Args:
        spec: what to run.
        on_step: told steps done and steps in all.
    """
    return told(experiment.run(spec, Steps(on_step)))


def told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line of progress needs of a finished record."""
    return {"top1": record["metrics"]["test"]["top1"], "seconds": record["cost"]["wall_seconds"]}


@dataclass
class Steps(experiment.Silent):
    """A listener that passes on steps alone."""

    told: Callable[[int, int], None]

    def on_step(self, step: int, total: int, loss: float) -> None:
        """Pass it on."""
        del loss
        self.told(step, total)
