"""Planned runs and a recording listener, for tests of the scheduler and of executors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pruneboard.spec import RunSpec
from pruneboard.sweeps.plan import PlannedRun


def planned_runs(count):
    """Return runs that differ in their seeds, which are 0, 1, 2 and so on."""
    specs = [RunSpec(method="a", model="b", seed=seed) for seed in range(count)]
    return [PlannedRun(spec, f"{spec.seed:064x}", Path("nowhere"), "missing") for spec in specs]


@dataclass
class RecordingListener:
    """Records the runs that end, and the runs that are recorded as lost."""

    ended: list = field(default_factory=list)
    recorded_as_lost: list = field(default_factory=list)
    polls: int = 0

    def on_poll(self, progress):
        self.polls += 1
        assert progress.finished == len(self.ended)

    def on_end(self, run, outcome, progress):
        assert outcome.key not in progress.active
        self.ended.append((run.spec.seed, outcome.status))

    def record_lost_run(self, spec, message):
        assert message == "why"
        self.recorded_as_lost.append(spec.seed)
