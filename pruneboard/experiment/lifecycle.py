"""One run, from a spec to its record: the walk, readable as a table of contents.

`run` is what the command line and Python users call; `execute` is what every process of a run does.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pruneboard.data import Dataset
from pruneboard.errors import InterruptedRunError, OutOfMemoryError, PruneboardError, RunError, StoreError
from pruneboard.experiment import ablation, outcome, start
from pruneboard.experiment.listeners import NullListener, Recorder, logged, logger
from pruneboard.experiment.prepare import Job, open_data, pick_device, prepare, wants_cuda
from pruneboard.processes import memory, rendezvous
from pruneboard.processes.launch import launch
from pruneboard.processes.world import World
from pruneboard.records import provenance, runfolder, store
from pruneboard.spec import RunSpec
from pruneboard.training import loop
from pruneboard.training.state import Listener


def run(spec: RunSpec, listener: Listener | None = None) -> dict[str, Any]:
    """Carry out one run and return its record; a finished record of the same content is returned as it is.

    Args:
        spec: what to run.
        listener: who watches; nobody by default.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed; its record is in the run's folder.
        InterruptedRunError: stopped by SIGTERM or by a lost process.
    """
    world = World.current()
    with rendezvous.together(world, cuda=wants_cuda(spec)):
        job, dataset = prepare(spec)
        rendezvous.check_same(job.hash)
        # Only the first process sees the results.
        finished = rendezvous.agree(lambda: None if spec.force else store.finished(job.folder, job.hash))
        return finished or _attempt(job, listener or NullListener(), world, dataset)


def record_lost_run(spec: RunSpec, message: str) -> dict[str, Any]:
    """Write the record of a run whose process is gone without having written one, and return it: failures are rows."""
    job, _ = prepare(spec)
    world = World.current()
    with _folder(job, world):
        return _put_unfinished(job, world, provenance.now(), RunError.status, "LostProcess", message)


def _attempt(job: Job, listener: Listener, world: World, dataset: Dataset) -> dict[str, Any]:
    with _folder(job, world), _recorded(job, world):
        record = launch(execute_safely, (job, listener), job.spec.procs, world, dataset)
        if world.is_main:
            store.put(job.folder, record)
            runfolder.drop_checkpoints(job.folder)
    return record


def execute(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Do this process's part of a run and return its record; only the first process's is kept.

    model -> gates -> engine -> resume, where there is a checkpoint -> fit, which hardens on the way -> ablation, if
    asked for -> fold -> audit -> evaluate -> cost -> record.
    """
    started = time.perf_counter()
    device = pick_device(job.spec)
    memory.reset_peak_memory(device)
    if dataset is None:  # a started process opens the data itself
        dataset = open_data(job.spec, job.recipe, job.seeds)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training = start.build_from_job(job, dataset, device, listener, started)
        try:
            loop.resume_from_checkpoint(training, start.attempt_entry(job, training))
            loop.fit(training)
            if job.spec.ablation:
                ablation.apply(job, training)
            return outcome.record(job, training)
        finally:
            training.engine.close()


def execute_safely(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Carry out `execute` and turn whatever stops it into an error of ours, with the traceback in this process's log.

    Raises:
        RunError: with the status the record gets.
    """
    world = World.current()
    watcher = Recorder(job.folder, listener, job.spec.tensorboard) if world.is_main else NullListener()
    log = job.folder / ("log.txt" if world.is_main else f"log.rank{world.rank}.txt")
    with logged(log, logging.INFO if world.is_main else logging.ERROR):
        return _told(job, watcher, dataset, log)


def _told(job: Job, watcher: Listener, dataset: Dataset | None, log: Path) -> dict[str, Any]:
    try:
        return execute(job, watcher, dataset)
    except InterruptedRunError as error:
        raise rendezvous.cause(error) from None
    except RunError:
        logger.exception("the run failed")
        raise
    except PruneboardError as error:  # the data or the plugin, found wanting once the run was under way
        logger.exception("the run failed")
        raise RunError(str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        logger.exception("out of memory")
        raise OutOfMemoryError(f"out of memory: lower --batch-size or --norm-batch ({_first_line(error)})") from error
    except OSError as error:
        logger.exception("the run failed")
        full = "the disk is full: " if error.errno == errno.ENOSPC else ""
        raise RunError(f"{full}{_first_line(error)}") from error
    except Exception as error:
        logger.exception("the run failed")
        where = f"; the traceback is in the run's {log.name}" if log.exists() else ""
        raise RunError(f"{type(error).__name__}: {_first_line(error)}{where}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _folder(job: Job, world: World) -> Iterator[None]:
    """Hold the run's folder, ready for this attempt, while the block lasts; the first process does."""
    if not world.is_main:
        yield
        return
    with runfolder.locked(job.folder):
        if not job.spec.force:
            start.checkpointer(job).check()
        runfolder.begin(job.folder, force=job.spec.force)
        yield


@contextmanager
def _recorded(job: Job, world: World) -> Iterator[None]:
    """Leave a record of any run that started and did not finish, then let the error go on."""
    started = provenance.now()
    try:
        yield
    except KeyboardInterrupt as error:
        message = str(error) or "stopped by Ctrl-C"
        _put_unfinished(job, world, started, "interrupted", type(error).__name__, message)
        raise
    except InterruptedRunError as error:
        _put_unfinished(job, world, started, "interrupted", type(error).__name__, str(error))
        raise
    except RunError as error:
        error.record = _put_unfinished(job, world, started, error.status, type(error).__name__, str(error))
        raise


def _put_unfinished(job: Job, world: World, started: str, status: str, kind: str, message: str) -> dict[str, Any]:
    made = outcome.unfinished(job, started, status, kind, message)
    if world.is_main:
        try:
            store.put(job.folder, made)
        except StoreError as refused:
            raise RunError(f"{message}; nor could the record of it be written: {refused}") from None
    return made
