"""Remote tasks for tests of the Ray executor."""

from __future__ import annotations

from dataclasses import replace

from pruneboard.experiment.prepare import prepare
from pruneboard.sweeps.executors import ray_cluster


def remote_task(spec, **changes):
    """Return the task that the machine of the sweep would send for a run."""
    return replace(ray_cluster._remote_task(spec, prepare(spec)[0].hash, "cpu"), **changes)
