"""Execute one run on a node of a Ray cluster: a node receives a serialized task and returns the files of the run.

The process started by Ray only waits. It has a worker process (`pruneboard.sweeps.executors.workers`), which executes
the run in the same way as on a single machine: with the same threads, with images that stay loaded from one run to the
next, and with a new process after a failure.
"""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pruneboard import registry
from pruneboard.errors import PruneboardError, UsageError
from pruneboard.records import provenance, runfolder, store
from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors.workers import Outcome, Workers

RETURNED_FILES = (runfolder.METRICS, "log.txt", store.MASK, store.WEIGHTS, store.RUN)
"""Files of a run that are sent back, the record last."""

POLL_SECONDS = 0.5

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
"""Variables that a launcher such as `srun` sets for Ray itself, and that Ray passes on to its tasks.

They describe the processes of the cluster. A run would take them for the description of its own processes.
"""


@dataclass(frozen=True)
class RemoteTask:
    """The task sent to a node: one run, and what the node must agree on before the run starts.

    Attributes:
        spec: the run, with absolute paths; the results folder is not used.
        hash: content hash of the run on the machine of the sweep.
        code: `code_digests` on the machine of the sweep.
        recipe: text of a custom recipe file; None for a recipe that comes with pruneboard.
    """

    spec: RunSpec
    hash: str
    code: Mapping[str, str]
    recipe: str | None = None


@dataclass(frozen=True)
class TaskResult:
    """The result of a remote task.

    Attributes:
        status: as in `Outcome`.
        value: as in `Outcome`.
        message: as in `Outcome`.
        files: name -> content, for the `RETURNED_FILES` that exist.
    """

    status: str
    value: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def code_digests(method: str | None = None) -> dict[str, str]:
    """Return the digests of the code of pruneboard, and of a method if given, as installed on this machine.

    A record names the code that made it, so a node with different code must not execute runs.

    Raises:
        UnknownNameError: the method is not installed.
    """
    target = registry.find(method).target if method else "pruneboard"
    found = provenance.code_versions(target)
    return {name: digest for name, digest in found.items() if name.startswith("code of ")}


def execute_task(task: RemoteTask, threads: int) -> TaskResult:
    """Execute a task in a temporary folder and return its result.

    Args:
        task: the run.
        threads: threads of the training process.
    """
    try:
        _check_code(task)
    except PruneboardError as error:
        return TaskResult("refused", message=str(error))
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    # Ray cancels a task with SIGINT. A cluster started in the background of a shell ignores that signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as folder:
        outcome = _wait_for_worker(_localized(task, Path(folder)), threads)
        return TaskResult(outcome.status, outcome.value, outcome.message, _read_files(Path(folder)))


def _check_code(task: RemoteTask) -> None:
    found = code_digests(task.spec.method)
    differing = [name.removeprefix("code of ") for name in found if found[name] != task.code[name]]
    if differing:
        raise UsageError(
            f"the code of {' and of '.join(differing)} on a node of the cluster differs from that of the sweep: "
            "install the same version on every node, and start the sweep again"
        )


def _localized(task: RemoteTask, folder: Path) -> RemoteTask:
    """Return the task with its results in `folder`, and with a custom recipe written to a file there."""
    spec = replace(task.spec, results=str(folder / "results"))
    if task.recipe is not None and spec.recipe is not None:
        copy = folder / Path(spec.recipe).name
        copy.write_text(task.recipe, encoding="utf-8")
        spec = replace(spec, recipe=str(copy))
    return replace(task, spec=spec)


def _wait_for_worker(task: RemoteTask, threads: int) -> Outcome:
    workers = _workers(threads)
    workers.submit(0, task)
    try:
        while not (ended := workers.wait(POLL_SECONDS)):
            pass
    except BaseException:  # the task was cancelled, or the node is shutting down
        workers.stop()
        raise
    return ended[0]


@cache
def _workers(threads: int) -> Workers[RemoteTask]:
    """Return a pool with one worker process, which this process reuses for all its tasks."""
    workers: Workers[RemoteTask] = Workers(_work, 1, threads)
    # Exit handlers run in reverse order of registration: this one must run before the handler of `multiprocessing`,
    # which would wait for the worker forever, because the worker waits for its next task.
    atexit.register(workers.stop)
    return workers


def _work(task: RemoteTask, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Execute the run in the worker process, after a check that its content hash is that of the plan."""
    import torch

    from pruneboard.experiment.prepare import prepare
    from pruneboard.sweeps.single_run import execute_run

    if task.spec.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "a node of the cluster has a GPU for this run, but its torch finds none: install torch with CUDA there"
        )
    job, _ = prepare(task.spec)
    if job.hash != task.hash:
        raise UsageError(
            "the run has a different content hash on a node of the cluster: put the same data at the same path on "
            "every node, and install the same versions there"
        )
    return execute_run(task.spec, on_step)


def _read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of the only run below `folder`; empty if it left no record."""
    found = [path.parent for path in folder.rglob(store.RUN)]
    return {name: (found[0] / name).read_bytes() for name in RETURNED_FILES if found and (found[0] / name).is_file()}
