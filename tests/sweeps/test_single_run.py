"""One run of a sweep: it reports its steps and returns what a progress line shows."""

from __future__ import annotations

import json

from pruneboard.sweeps.single_run import execute_run
from runs import folder, tiny


def test_a_run_reports_its_steps_and_its_result(tmp_path):
    """A run reports its progress up to the last of its 8 steps and returns the top-1 and the time of its record."""
    steps = []
    summary = execute_run(tiny(tmp_path), lambda step, total: steps.append((step, total)))
    record = json.loads((folder(tmp_path) / "run.json").read_text())
    assert steps[-1] == (8, 8)
    assert steps == sorted(set(steps))
    assert {total for _, total in steps} == {8}
    assert record["status"] == "done"
    assert summary == {"top1": record["metrics"]["test"]["top1"], "seconds": record["cost"]["wall_seconds"]}


def test_a_finished_run_is_not_repeated(tmp_path):
    """A second execution trains no step and returns the same summary."""
    summary = execute_run(tiny(tmp_path), lambda step, total: None)
    steps = []
    assert execute_run(tiny(tmp_path), lambda step, total: steps.append(step)) == summary
    assert steps == []
