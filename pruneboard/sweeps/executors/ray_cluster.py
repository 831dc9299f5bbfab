"""Execute runs on an existing Ray cluster.

Every run is a Ray task, which Ray starts again on another node if its node dies. The run works in a temporary folder of
its node, so no shared disk is needed. When it ends, its files are sent back and written to the run's results folder.
Checkpoints are lost together with the node: the run then starts from the beginning, and so it does after Ctrl-C.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneboard.errors import PruneboardError, StoreError, UsageError
from pruneboard.processes import interrupts
from pruneboard.records import runfolder, store
from pruneboard.records import schema as records
from pruneboard.spec import RunSpec
from pruneboard.sweeps.executors import ray_node
from pruneboard.sweeps.executors.ray_client import check_reservation, connect, deferred_signals, last_line
from pruneboard.sweeps.executors.workers import Outcome

if TYPE_CHECKING:
    from pruneboard.experiment.prepare import Job

MAX_ATTEMPTS = 4
"""How often Ray starts a run whose node dies, before the run counts as lost for the scheduler of the sweep."""

QUEUED = 2
"""Number of runs submitted beyond the capacity, so that a node that becomes free has the next run at once."""

RESPONSE_SECONDS = 120.0
"""Time for a node to return its code digests; it starts its first process in this time."""

CANCEL_SECONDS = 20.0
"""Time for cancelled runs to end. Ray kills those that remain when this process disconnects."""

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class _ActiveRun:
    key: int
    job: Job
    lock: ExitStack
    """Lock of the run's folder."""


class RayCluster:
    """An executor on an existing Ray cluster. It does not start or stop the cluster.

    Args:
        cpus: CPU cores to reserve for each run. A run uses as many threads, rounded down, and at least one. With a
            fraction below 1 several runs share a core.
        gpus: GPUs to reserve for each run; 0 trains on the CPU.
        max_attempts: how often a run is started if its node dies.
    """

    def __init__(self, *, cpus: float, gpus: float = 0.0, max_attempts: int = MAX_ATTEMPTS) -> None:
        """Connect to the cluster and check that its nodes have the same code as this machine.

        Raises:
            UsageError: Ray is not installed, there is no cluster, or a node has different code.
        """
        from pruneboard.data import dataset_cache

        check_reservation(cpus, gpus)
        self.steps: Mapping[int, tuple[int, int]] = {}  # always empty: nodes do not report steps
        self.threads = max(1, int(cpus))
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._device = "cuda" if gpus else "cpu"
        self._active: dict[Any, _ActiveRun] = {}
        self._ended: list[Outcome] = []
        self._resources = ExitStack()
        self._ray = connect()
        self._resources.callback(self._ray.shutdown)
        self._resources.enter_context(dataset_cache())
        try:
            self._check_nodes()
        except BaseException:
            self._resources.close()
            raise
        remote = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=max_attempts - 1)
        self._execute_task = remote(ray_node.execute_task)

    @property
    def capacity(self) -> int:
        """Number of runs that the current nodes can execute in parallel."""
        return sum(_node_capacity(node, self._needs) for node in self._nodes())

    @property
    def slots(self) -> int:
        """Number of runs to submit: the capacity, and a few that wait at the cluster."""
        return self.capacity + QUEUED

    def submit(self, key: int, spec: RunSpec) -> None:
        """Send a run to the cluster, and lock its folder until its result has arrived."""
        with deferred_signals():
            try:
                self._send(key, spec)
            except PruneboardError as error:
                self._ended.append(Outcome(key, "refused", message=str(error)))

    def wait(self, seconds: float) -> list[Outcome]:
        """Return runs that ended, after writing their files; empty if none ended within `seconds`.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            InterruptedRunError: SIGTERM arrived.
        """
        with deferred_signals():
            ended, self._ended = self._ended, []
            if ended:
                return ended
            ready, _ = self._ray.wait(list(self._active), num_returns=1, timeout=seconds)
            return [self._collect(task) for task in ready]

    def stop(self) -> None:
        """Cancel the active runs and disconnect. The cluster continues to run."""
        tasks = list(self._active)
        with self._resources, interrupts.listen_for_stop():
            for task in tasks:
                self._ray.cancel(task)
            self._wait_for_all(tasks, CANCEL_SECONDS)
            for run in self._active.values():
                run.lock.close()
            self._active.clear()

    def _wait_for_all(self, tasks: Sequence[Any], seconds: float) -> None:
        """Wait until all tasks have ended, for at most `seconds`."""
        left, deadline = list(tasks), time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            with deferred_signals():
                _, left = self._ray.wait(left, num_returns=len(left), timeout=POLL_SECONDS, fetch_local=False)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _check_nodes(self) -> None:
        """Compare the code digests of every node that can execute a run. Nodes that join later check each run."""
        expected = ray_node.code_digests()
        digests = self._ray.remote(num_cpus=0)(ray_node.code_digests)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        nodes = [node for node in self._nodes() if _node_capacity(node, self._needs)]
        tasks = [digests.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote() for node in nodes]
        self._wait_for_all(tasks, RESPONSE_SECONDS)
        for node, task in zip(nodes, tasks, strict=True):
            if problem := self._code_problem(task, expected):
                raise UsageError(f"node {node['NodeManagerAddress']} of the cluster {problem}")

    def _code_problem(self, task: Any, expected: dict[str, str]) -> str | None:
        errors = self._ray.exceptions
        try:
            found = self._ray.get(task, timeout=POLL_SECONDS)
        except errors.GetTimeoutError:
            return f"did not respond within {RESPONSE_SECONDS:.0f} s: see `ray status`"
        except errors.RayTaskError as error:
            return f"cannot import pruneboard: install the same version on every node ({last_line(error)})"
        except errors.RayError:
            return None  # the node has left the cluster
        return None if found == expected else "has different pruneboard code: install the same version on every node"

    def _send(self, key: int, spec: RunSpec) -> None:
        from pruneboard.experiment.prepare import prepare
        from pruneboard.sweeps.single_run import progress_summary

        job, _ = prepare(spec)
        finished = store.finished(job.folder, job.hash)
        if finished is not None:  # by another process, since the plan was made
            self._ended.append(Outcome(key, "done", progress_summary(finished)))
            return
        remote_task = _remote_task(spec, job.hash, self._device)
        with ExitStack() as lock:
            lock.enter_context(runfolder.locked(job.folder))
            task = self._execute_task.remote(remote_task, self.threads)
            self._active[task] = _ActiveRun(key, job, lock.pop_all())

    def _collect(self, task: Any) -> Outcome:
        run = self._active.pop(task)
        errors = self._ray.exceptions
        with run.lock:
            try:
                result = self._ray.get(task)
                _store_result(run.job, result)
            except errors.RayTaskError as error:  # from the harness on the node; errors of the run are in its result
                return Outcome(run.key, "refused", message=last_line(error))
            except errors.RayError as error:
                return Outcome(run.key, "lost", message=f"its node was lost: {last_line(error)}")
            except PruneboardError as error:
                return Outcome(run.key, "refused", message=str(error))
        return Outcome(run.key, result.status, result.value, result.message)


def _node_capacity(node: Mapping[str, Any], needs: Mapping[str, float]) -> int:
    """Return how many runs a node can execute in parallel: the minimum over the resources that a run needs."""
    has = node["Resources"]
    # Ray counts resources in units of 1/10,000, so 0.3 / 0.1 must be 3 here too, not 2.9999999999999996.
    return min(int(has.get(name, 0) / need + 1e-6) for name, need in needs.items() if need)


def _remote_task(spec: RunSpec, content_hash: str, device: str) -> ray_node.RemoteTask:
    """Return the task to send for a run, with absolute paths and with the text of a custom recipe."""
    recipe = spec.recipe if spec.recipe and spec.recipe.endswith(".toml") else None
    init = str(Path(spec.init).absolute()) if spec.init and spec.init.endswith(".safetensors") else spec.init
    data = str(Path(spec.data_dir).absolute()) if spec.data_dir else spec.data_dir
    sent = replace(spec, data_dir=data, init=init, device=device, results="")
    text = Path(recipe).read_text(encoding="utf-8") if recipe else None
    return ray_node.RemoteTask(sent, content_hash, ray_node.code_digests(spec.method), text)


def _store_result(job: Job, result: ray_node.TaskResult) -> None:
    """Write the files of a run to its results folder, the record last. An interrupted run has no files to keep.

    Raises:
        StoreError: the result contains the record of a different run, or the folder cannot be written.
    """
    if result.status in ("lost", "interrupted", "refused") or store.RUN not in result.files:
        return
    record = records.validate(json.loads(result.files[store.RUN]))
    if record["hash"] != job.hash:
        raise StoreError(f"a node returned the record of a different run: {record['hash'][:8]}, not {job.hash[:8]}")
    runfolder.drop_checkpoints(job.folder)  # from an earlier local attempt; the node did not resume from them
    runfolder.begin(job.folder)
    for name in ray_node.RETURNED_FILES:
        if name in result.files and name != store.RUN:
            store.write_atomic(job.folder / name, result.files[name])
    store.put(job.folder, record)
