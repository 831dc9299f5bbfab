"""What a node of a cluster does with one run: it comes as an errand, and goes back as the files of its folder.

The process that the cluster starts only waits. A worker process beside it (`pruneboard.sweeps.executors.workers`)
carries out the run, as on one machine: the same threads, images that stay open, and a new process after a failure.
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

FILES = (runfolder.METRICS, "log.txt", store.MASK, store.WEIGHTS, store.RUN)
"""What comes back of a run, its record last."""

LOOK_SECONDS = 0.5

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
"""What a launcher such as `srun` tells the Ray that it starts on each node, and Ray its tasks: no run is meant."""


@dataclass(frozen=True)
class RemoteTask:
    """One run, with all that a node must agree on before it starts.

    Attributes:
        spec: what to run; its paths are absolute, and its results folder is not used.
        hash: its content hash, where it was planned.
        code: digests of the code that planned it, as of `code`.
        recipe: text of the recipe's file, where it is one of the user's own.
    """

    spec: RunSpec
    hash: str
    code: Mapping[str, str]
    recipe: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of an errand.

    Attributes:
        status: as of an outcome.
        value: as of an outcome.
        message: as of an outcome.
        files: name -> content, of `FILES` those that there are.
    """

    status: str
    value: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def code(method: str | None = None) -> dict[str, str]:
    """Return digests of pruneboard's code here, and of a method's: records of other code must not be mixed up.

    Raises:
        UnknownNameError: the method is not installed here.
    """
    target = registry.find(method).target if method else "pruneboard"
    found = provenance.code_versions(target)
    return {name: digest for name, digest in found.items() if name.startswith("code of ")}


def carry_out(errand: RemoteTask, threads: int) -> Answer:
    """Do an errand in a folder of its own, and return what is left of it.

    Args:
        errand: the run.
        threads: of the process that trains.
    """
    try:
        _check_code(errand)
    except PruneboardError as error:
        return Answer("refused", message=str(error))
    for name in LAUNCHED:
        os.environ.pop(name, None)
    # Cancelling arrives as this signal, which a cluster that was started in a shell's background ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pruneboard-") as folder:
        outcome = _outcome(_placed(errand, Path(folder)), threads)
        return Answer(outcome.status, outcome.value, outcome.message, _files(Path(folder)))


def _check_code(errand: RemoteTask) -> None:
    here = code(errand.spec.method)
    differing = [name.removeprefix("code of ") for name in here if here[name] != errand.code[name]]
    if differing:
        raise UsageError(
            f"the code of {' and of '.join(differing)} on a node of the cluster is not that of the sweep: install the "
            "same on every node, and start the sweep again"
        )


def _placed(errand: RemoteTask, folder: Path) -> RemoteTask:
    """Return the errand with its folder, and with its recipe as a file in it."""
    spec = replace(errand.spec, results=str(folder / "results"))
    if errand.recipe is not None and spec.recipe is not None:
        copy = folder / Path(spec.recipe).name
        copy.write_text(errand.recipe, encoding="utf-8")
        spec = replace(spec, recipe=str(copy))
    return replace(errand, spec=spec)


def _outcome(errand: RemoteTask, threads: int) -> Outcome:
    workers = _workers(threads)
    workers.submit(0, errand)
    try:
        while not (ended := workers.wait(LOOK_SECONDS)):
            pass
    except BaseException:  # cancelled, or this node is being shut down
        workers.stop()
        raise
    return ended[0]


@cache
def _workers(threads: int) -> Workers[RemoteTask]:
    """Return this process's one worker, which stays warm between errands."""
    workers: Workers[RemoteTask] = Workers(_work, 1, threads)
    atexit.register(workers.stop)  # before multiprocessing waits for a process that waits for us
    return workers


def _work(errand: RemoteTask, on_step: Callable[[int, int], None]) -> dict[str, Any]:
    """Carry out the run in the worker, if its content is that of the plan."""
    import torch

    from pruneboard.experiment.prepare import prepare
    from pruneboard.sweeps.carry_out import carry_out as run_it

    if errand.spec.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "a node of the cluster has a GPU for this run and its torch sees none: install one with CUDA there"
        )
    job, _ = prepare(errand.spec)
    if job.hash != errand.hash:
        raise UsageError(
            "the same run has another content hash on a node of the cluster: put the same data at the same path on "
            "every node, and install the same versions there"
        )
    return run_it(errand.spec, on_step)


def _files(folder: Path) -> dict[str, bytes]:
    """Return the files of the one run below `folder`; none where it left no record."""
    found = [path.parent for path in folder.rglob(store.RUN)]
    return {name: (found[0] / name).read_bytes() for name in FILES if found and (found[0] / name).is_file()}
