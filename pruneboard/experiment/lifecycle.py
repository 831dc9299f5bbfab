"""One run, from a spec to its record: read this module from top to bottom, then the modules that it calls.

The command line and Python users call `run`; each process of the run calls `execute_safely`.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pruneboard.data import Dataset
from pruneboard.errors import (
    AuditError,
    InterruptedRunError,
    OutOfMemoryError,
    PluginError,
    PruneboardError,
    RunError,
    StoreError,
    described,
)
from pruneboard.experiment import ablation, listeners, outcome, rescue, start
from pruneboard.experiment.listeners import NullListener, Recorder, log_to_file, logger
from pruneboard.experiment.prepare import Job, gpu_of, open_data, pick_device, prepare, wants_cuda
from pruneboard.models import build_model
from pruneboard.processes import guardian, memory, phases, rendezvous
from pruneboard.processes.launch import launch
from pruneboard.processes.process_exit import exit_raises
from pruneboard.processes.world import World
from pruneboard.records import provenance, runfolder, store
from pruneboard.spec import RunSpec
from pruneboard.training import harness_guard, loop, process_state
from pruneboard.training.process_state import ENVIRONMENT, settings_restored
from pruneboard.training.state import Listener

FIXED_AT_IMPORT = (
    process_state.DIRECTORY,
    process_state.HANDLERS,
    process_state.DENORMALS,
    process_state.GLOBAL_HOOKS,
)
"""Settings that no library needs to change when it is imported."""


def run(spec: RunSpec, listener: Listener | None = None) -> dict[str, Any]:
    """Carry out one run and return its record; if a finished record with the same content hash exists, return that.

    Args:
        spec: what to run.
        listener: observes the run; None for no observer.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run failed; its record is in the run's folder.
        InterruptedRunError: stopped by SIGTERM or by a lost process.
    """
    world = World.current()
    reported = phases.reported_to((listener or NullListener()).on_phase)
    with reported, rendezvous.shared_run(world, cuda=wants_cuda(spec)):
        job, dataset = _load(spec)
        if world.is_main:
            listeners.say(dataset.notes)
        rendezvous.check_same_run(job.hash, gpu_of(spec))
        # Only rank 0 reads the results folder: hosts need not share a file system.
        finished = rendezvous.broadcast_from_main(lambda: None if spec.force else store.finished(job.folder, job.hash))
        if finished is None and job.init == "pretrained":
            phases.report("loading the pretrained weights")
            # A failed download or unusable weights: nothing is written yet.
            build_model(job.plan, init=job.init, seed=0)
        return finished or _train_and_store(job, listener or NullListener(), world, dataset)


def _load(spec: RunSpec) -> tuple[Job, Dataset]:
    """Return the job and the data of `spec`; refuse a method that changes the process or the harness when imported."""
    with exit_raises(), harness_guard.harness_restored() as replaced, settings_restored(without=[ENVIRONMENT]):
        before = process_state.settings(FIXED_AT_IMPORT)
        job, dataset = prepare(spec)
        changed = process_state.change(before)
    if replaced or changed:
        what = changed or f"replaced {replaced[0]}"
        raise PluginError(f"method {job.info.origin} {what} when it was loaded: uninstall it")
    return job, dataset


def _train_and_store(job: Job, listener: Listener, world: World, dataset: Dataset) -> dict[str, Any]:
    if job.spec.procs > 1:
        listener.on_phase(f"starting {job.spec.procs} processes")
    with _locked_folder(job, world), _failures_recorded(job, world), _loss_recorded(job, world):
        record = launch(execute_safely, (job, listener), job.spec.procs, world, dataset, started=listener.on_end)
        if world.is_main:
            _store_finished(job, record)
            runfolder.drop_checkpoints(job.folder)
    return record


def _store_finished(job: Job, record: dict[str, Any]) -> None:
    """Write the record of a finished run; if that is not possible, save the run elsewhere and raise an error."""

    def copy(folder: Path) -> None:
        store.put(folder, record)
        for name in (store.WEIGHTS, store.MASK):
            shutil.copyfile(job.folder / name, folder / name)

    try:
        store.put(job.folder, record)
    except StoreError as error:
        raise rescue.save_elsewhere(job, error, copy) or error from None


def execute(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Do this process's part of a run and return the record; only that of rank 0 is kept.

    model -> gates -> engine -> resume from a checkpoint, if there is one -> fit, which also hardens -> ablation, if
    requested -> fold -> audit -> evaluate -> cost -> record.
    """
    start_time = time.perf_counter()
    device = pick_device(job.spec)
    memory.reset_peak_memory(device)
    if dataset is None:  # in a process started by `launch`, which receives no images
        # `prepare` has checked the images.
        dataset = open_data(dataclasses.replace(job.spec, check_images=False), job.recipe, job.seeds)
    if World.current().is_main:
        for note in dataset.notes:
            logger.info(note)
    # The loop seeds torch's global generators for dropout; the caller gets its random state back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training = start.build_from_job(job, dataset, device, listener, start_time)
        try:
            # A method must not affect the evaluation, nor the next run in this process.
            with harness_guard.harness_restored() as replaced, settings_restored(without=[ENVIRONMENT]):
                loop.resume_from_checkpoint(training, start.attempt_entry(job, training))
                loop.fit(training)
            if replaced:
                raise AuditError(
                    f"method {job.info.origin} replaced {replaced[0]}: a method may not change the harness"
                )
            if job.spec.ablation:
                ablation.apply(job, training)
            return outcome.finished_record(job, training)
        finally:
            training.engine.close()


def execute_safely(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Call `execute`, write metrics and log files, and convert every error into one of `pruneboard.errors`.

    Raises:
        RunError: the run failed; the error's class has the status for the record.
    """
    world = World.current()
    observer = Recorder(job.folder, listener, job.spec.tensorboard) if world.is_main else NullListener()
    log = job.folder / ("log.txt" if world.is_main else f"log.rank{world.rank}.txt")
    with log_to_file(log, logging.INFO if world.is_main else logging.ERROR), _errors_converted(log), exit_raises():
        try:
            with phases.reported_to(observer.on_phase):
                return execute(job, observer, dataset)
        finally:
            observer.on_end()


@contextmanager
def _errors_converted(log: Path) -> Iterator[None]:
    """Convert whatever the block raises into one of our errors, with a one-line message; log the traceback."""
    try:
        yield
    except InterruptedRunError as error:
        raise rendezvous.root_cause(error) from None
    except RunError:
        logger.exception("the run failed")
        raise
    except PruneboardError as error:  # an error in the data or the plugin that showed only during the run
        logger.exception("the run failed")
        raise RunError(str(error)) from error
    except OSError as error:
        logger.exception("the run failed")
        full = "the disk is full: " if error.errno == errno.ENOSPC else ""
        raise RunError(f"{full}{_first_line(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: whatever ends a method early is a failed run
        if memory.is_out_of_memory(error):
            logger.exception("out of memory")
            raise OutOfMemoryError(
                f"out of memory: lower --batch-size or --norm-batch ({_first_line(error)})"
            ) from error
        logger.exception("the run failed")
        where = f"; the traceback is in the run's {log.name}" if log.exists() else ""
        raise RunError(f"{type(error).__name__}: {_first_line(error)}{where}") from error


def _first_line(error: BaseException) -> str:
    return (described(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _locked_folder(job: Job, world: World) -> Iterator[None]:
    """On rank 0, prepare the run's folder for this attempt and lock it during the block."""
    if not world.is_main:
        yield
        return
    with runfolder.locked(job.folder):
        if not job.spec.force:
            start.checkpointer(job).check_resumable()
        runfolder.begin(job.folder, force=job.spec.force)
        yield


@contextmanager
def _failures_recorded(job: Job, world: World) -> Iterator[None]:
    """If the block fails or is interrupted, store a record that says why, and let the error propagate."""
    started = provenance.now()
    # A copy: a method that reaches these blocks must not be able to prevent the record of its failure.
    job = dataclasses.replace(job, base_record=copy.deepcopy(job.base_record))
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError) as error:
        message = str(error) or "stopped by Ctrl-C"
        _store_unfinished(job, world, started, "interrupted", type(error).__name__, message)
        raise
    except RunError as error:
        error.record = _store_unfinished(job, world, started, error.status, type(error).__name__, str(error))
        raise
    except PruneboardError as error:
        # After the attempt began, also a record that the store refuses is a failed run: a method can make it invalid.
        failed = RunError(str(error))
        failed.record = _store_unfinished(job, world, started, failed.status, type(error).__name__, str(error))
        raise failed from error


@contextmanager
def _loss_recorded(job: Job, world: World) -> Iterator[None]:
    """During the block, give the process that watches this one the record to store if this one is lost."""
    if not (world.is_main and guardian.is_watched()):
        yield
        return
    message = "the process of the run was lost"
    record = outcome.unfinished_record(job, provenance.now(), RunError.status, "LostProcess", message)
    guardian.note("attempt", folder=str(job.folder), record=record)
    try:
        yield
    finally:
        guardian.note("attempt over")


def record_lost_run(spec: RunSpec, message: str) -> dict[str, Any]:
    """Store and return the record of a run whose process ended without writing one: a failed run is also a row."""
    job, _ = prepare(spec)
    world = World.current()
    with _locked_folder(job, world):
        return _store_unfinished(job, world, provenance.now(), RunError.status, "LostProcess", message)


def _store_unfinished(job: Job, world: World, started: str, status: str, kind: str, message: str) -> dict[str, Any]:
    record = outcome.unfinished_record(job, started, status, kind, message)
    if world.is_main:
        try:
            store.put(job.folder, record)
        except StoreError as error:
            also = "" if str(error) in message else f"; the record of this failure could not be written either: {error}"
            raise RunError(f"{message}{also}") from None
    return record
