"""The Ray executor on the machine of the sweep: capacity of nodes, tasks to send, and results to store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pruneboard.errors import StoreError
from pruneboard.experiment import lifecycle
from pruneboard.experiment.prepare import prepare
from pruneboard.records import runfolder, schema, store
from pruneboard.sweeps.executors import ray_cluster, ray_node
from runs import tiny


@pytest.mark.parametrize(
    ("has", "needs", "capacity"),
    [
        ({"CPU": 4.0}, {"CPU": 1.0, "GPU": 0.0}, 4),
        ({"CPU": 4.0}, {"CPU": 1.5, "GPU": 0.0}, 2),
        ({"CPU": 0.3}, {"CPU": 0.1, "GPU": 0.0}, 3),
        ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}, 4),
        ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}, 2),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"GPU": 2.0}, {"CPU": 0.0, "GPU": 0.5}, 4),
        ({}, {"CPU": 1.0, "GPU": 0.0}, 0),
    ],
)
def test_the_scarcest_resource_limits_the_runs_of_a_node(has, needs, capacity):
    """A node executes as many runs as its scarcest resource allows."""
    assert ray_cluster._node_capacity({"Resources": has}, needs) == capacity


def test_a_task_contains_absolute_paths_and_the_recipe(tmp_path, monkeypatch):
    """The task for a node has absolute paths of data and initial weights, and the text of a custom recipe."""
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text("epochs = 1\n")
    spec = tiny("results", data_dir="images", recipe="own.toml", init="first.safetensors")
    task = ray_cluster._remote_task(spec, "0" * 64, "cuda")
    assert (task.spec.data_dir, task.spec.init) == (str(tmp_path / "images"), str(tmp_path / "first.safetensors"))
    assert (task.spec.device, task.recipe) == ("cuda", "epochs = 1\n")
    assert ray_cluster._remote_task(replace(spec, init="kaiming-normal"), "", "cpu").spec.init == "kaiming-normal"


def result_of(record, **files):
    """Return the result of a failed run with this record."""
    files |= {store.RUN: schema.dumps(record).encode()}
    return ray_node.TaskResult("failed", message="gone", files=files)


def test_the_record_of_a_different_run_is_not_stored(tmp_path):
    """If a node returns the record of a different run, nothing is written."""
    job, _ = prepare(tiny(tmp_path))
    other = lifecycle.record_lost_run(tiny(tmp_path / "other", seed=1), "gone")
    with pytest.raises(StoreError, match="the record of a different run"):
        ray_cluster._store_result(job, result_of(other))
    assert not job.folder.exists()


def test_a_failed_run_is_stored_and_replaced_by_the_next_result(tmp_path):
    """The record of a failed run is stored; the next result moves it to `failures`."""
    job, _ = prepare(tiny(tmp_path / "here"))
    failed = lifecycle.record_lost_run(tiny(tmp_path / "there"), "gone")
    for _ in range(2):
        ray_cluster._store_result(job, result_of(failed, **{"log.txt": b"why"}))
    assert store.read(job.folder / store.RUN)["status"] == "failed"
    assert (job.folder / "log.txt").read_bytes() == b"why"
    assert (job.folder / "failures" / "01.json").exists()


def test_stored_results_replace_local_checkpoints(tmp_path):
    """Checkpoints of an earlier local attempt are deleted, because the node did not resume from them."""
    job, _ = prepare(tiny(tmp_path / "here"))
    runfolder.add_checkpoint(job.folder, 4, lambda path: path.write_bytes(b"weights"))
    failed = lifecycle.record_lost_run(tiny(tmp_path / "there"), "gone")
    ray_cluster._store_result(job, result_of(failed))
    assert not runfolder.checkpoints(job.folder)


@pytest.mark.parametrize("status", ["lost", "interrupted", "refused"])
def test_an_unfinished_run_is_not_stored(tmp_path, status):
    """A run without a final result leaves no file in the results folder."""
    job, _ = prepare(tiny(tmp_path))
    ray_cluster._store_result(job, ray_node.TaskResult(status, files={store.RUN: b"{}", "log.txt": b"why"}))
    assert not job.folder.exists()
