"""Runs on an existing Ray cluster: the same plan, carried out by whatever nodes there are.

A run is a task of Ray, sent again where its node dies. It works in a temporary folder of its node, so that no disk need
be shared, and its files come back whole when it has ended, into the folder where the plan expects them. What is lost
with a node are its checkpoints: a run that was under way there starts anew elsewhere. So it does after Ctrl-C.
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
from pruneboard.sweeps.executors.ray_client import check, connected, last_line, undisturbed
from pruneboard.sweeps.executors.workers import Outcome

if TYPE_CHECKING:
    from pruneboard.experiment.prepare import Job

ATTEMPTS = 4
"""How often Ray starts a run whose node dies, before `conduct` hears that it is lost."""

QUEUED = 2
"""Runs beyond those that there is room for: a node whose run has ended need not wait until this machine has noticed."""

ANSWER_SECONDS = 120.0
"""How long a node may take to say which code it has: its first process starts meanwhile."""

CANCEL_SECONDS = 20.0
"""How long runs that were told to end may take; after that Ray kills them when we leave."""

LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class _UnderWay:
    key: int
    job: Job
    held: ExitStack
    """The lock of the run's folder."""


class Cluster:
    """An executor on a Ray cluster that is already there; it is left as it was found.

    Args:
        cpus: of each run, reserved at the cluster; its threads are as many, at least one. A fraction lets runs share.
        gpus: of each run; with 0 it trains on the CPU.
        attempts: how often a run is started whose node dies.
    """

    def __init__(self, *, cpus: float, gpus: float = 0.0, attempts: int = ATTEMPTS) -> None:
        """Join, and look whether the nodes have the code that is here.

        Raises:
            UsageError: Ray is not installed, there is no cluster, or a node has other code.
        """
        from pruneboard.data import kept_open

        check(cpus, gpus)
        self.steps: Mapping[int, tuple[int, int]] = {}  # what a run is at, only its node knows
        self.threads = max(1, int(cpus))
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._device = "cuda" if gpus else "cpu"
        self._under_way: dict[Any, _UnderWay] = {}
        self._ended: list[Outcome] = []
        self._open = ExitStack()
        self._ray = connected()
        self._open.callback(self._ray.shutdown)
        self._open.enter_context(kept_open())
        try:
            self._check_nodes()
        except BaseException:
            self._open.close()
            raise
        remote = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=attempts - 1)
        self._carry_out = remote(ray_node.carry_out)

    @property
    def room(self) -> int:
        """Runs that the nodes take at once, now; nodes come and go."""
        return sum(_room(there, self._needs) for there in self._nodes())

    @property
    def slots(self) -> int:
        """Runs to hand over: those that there is room for, and a few that wait at the cluster."""
        return self.room + QUEUED

    def submit(self, key: int, spec: RunSpec) -> None:
        """Hand a run to the cluster, and hold its folder until it is back."""
        with undisturbed():
            try:
                self._send(key, spec)
            except PruneboardError as error:
                self._ended.append(Outcome(key, "refused", message=str(error)))

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the runs that ended, their files in place; empty after `seconds` without one.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            InterruptedRunError: SIGTERM.
        """
        with undisturbed():
            ended, self._ended = self._ended, []
            if ended:
                return ended
            ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=seconds)
            return [self._take(task) for task in ready]

    def stop(self) -> None:
        """Cancel what is under way and leave the cluster, which goes on without us."""
        tasks = list(self._under_way)
        with self._open, interrupts.listen_for_stop():
            for task in tasks:
                self._ray.cancel(task)
            self._settle(tasks, CANCEL_SECONDS)
            for run in self._under_way.values():
                run.held.close()
            self._under_way.clear()

    def _settle(self, tasks: Sequence[Any], seconds: float) -> None:
        """Wait until all tasks have ended, `seconds` at most."""
        left, deadline = list(tasks), time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            with undisturbed():
                _, left = self._ray.wait(left, num_returns=len(left), timeout=LOOK_SECONDS, fetch_local=False)

    def _nodes(self) -> list[dict[str, Any]]:
        return [there for there in self._ray.nodes() if there["Alive"]]

    def _check_nodes(self) -> None:
        """Ask every node that a run could go to for its code; one that joins later is asked with its first run."""
        ours = ray_node.code()
        asked = self._ray.remote(num_cpus=0)(ray_node.code)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        able = [there for there in self._nodes() if _room(there, self._needs)]
        at = [affinity(there["NodeID"], soft=False) for there in able]
        tasks = [asked.options(scheduling_strategy=place).remote() for place in at]
        self._settle(tasks, ANSWER_SECONDS)
        for there, task in zip(able, tasks, strict=True):
            problem = self._problem(task, ours)
            if problem:
                raise UsageError(f"node {there['NodeManagerAddress']} of the cluster {problem}")

    def _problem(self, task: Any, ours: dict[str, str]) -> str | None:
        errors = self._ray.exceptions
        try:
            found = self._ray.get(task, timeout=LOOK_SECONDS)
        except errors.GetTimeoutError:
            return f"did not answer within {ANSWER_SECONDS:.0f} s: see `ray status`"
        except errors.RayTaskError as error:
            return f"cannot import pruneboard: install the same on every node ({last_line(error)})"
        except errors.RayError:
            return None  # it has gone meanwhile
        return None if found == ours else "has other code of pruneboard: install the same on every node"

    def _send(self, key: int, spec: RunSpec) -> None:
        from pruneboard.experiment.prepare import prepare
        from pruneboard.sweeps.carry_out import progress_summary

        job, _ = prepare(spec)
        finished = store.finished(job.folder, job.hash)
        if finished is not None:  # somebody else's meanwhile
            self._ended.append(Outcome(key, "done", progress_summary(finished)))
            return
        errand = _errand(spec, job.hash, self._device)
        with ExitStack() as held:
            held.enter_context(runfolder.locked(job.folder))
            task = self._carry_out.remote(errand, self.threads)
            self._under_way[task] = _UnderWay(key, job, held.pop_all())

    def _take(self, task: Any) -> Outcome:
        run = self._under_way.pop(task)
        errors = self._ray.exceptions
        with run.held:
            try:
                answer = self._ray.get(task)
                _keep(run.job, answer)
            except errors.RayTaskError as error:  # not of the run, which answers with its own
                return Outcome(run.key, "refused", message=last_line(error))
            except errors.RayError as error:
                return Outcome(run.key, "lost", message=f"its node was lost: {last_line(error)}")
            except PruneboardError as error:
                return Outcome(run.key, "refused", message=str(error))
        return Outcome(run.key, answer.status, answer.value, answer.message)


def _room(there: Mapping[str, Any], needs: Mapping[str, float]) -> int:
    """Return how many runs one node takes at once."""
    has = there["Resources"]
    # Ray counts in steps of 1/10,000, in which 0.3 / 0.1 is 3.
    return min(int(has.get(name, 0) / need + 1e-6) for name, need in needs.items() if need)


def _errand(spec: RunSpec, content: str, device: str) -> ray_node.RemoteTask:
    """Return what a node needs for a run: paths that mean the same in another folder, and the recipe's file itself."""
    recipe = spec.recipe if spec.recipe and spec.recipe.endswith(".toml") else None
    init = str(Path(spec.init).absolute()) if spec.init and spec.init.endswith(".safetensors") else spec.init
    data = str(Path(spec.data_dir).absolute()) if spec.data_dir else spec.data_dir
    sent = replace(spec, data_dir=data, init=init, device=device, results="")
    text = Path(recipe).read_text(encoding="utf-8") if recipe else None
    return ray_node.RemoteTask(sent, content, ray_node.code(spec.method), text)


def _keep(job: Job, answer: ray_node.Answer) -> None:
    """Write what a run left to where the plan has it, its record last; of an interrupted one there is nothing to keep.

    Raises:
        StoreError: it is not the record of that run, or the folder cannot be written.
    """
    if answer.status in ("lost", "interrupted", "refused") or store.RUN not in answer.files:
        return
    record = records.validate(json.loads(answer.files[store.RUN]))
    if record["hash"] != job.hash:
        raise StoreError(f"a node answered with the record of another run: {record['hash'][:8]}, not {job.hash[:8]}")
    runfolder.drop_checkpoints(job.folder)  # of an earlier attempt here, from which this one did not go on
    runfolder.begin(job.folder)
    for name in ray_node.FILES:
        if name in answer.files and name != store.RUN:
            store.write_atomic(job.folder / name, answer.files[name])
    store.put(job.folder, record)
