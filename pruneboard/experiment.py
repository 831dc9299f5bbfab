"""One run, from a spec to its record: the walk, readable as a table of contents.

`run` is what the command line and Python users call; `execute` is what every process of a run does.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruneboard import ablate, assemble, cost, peers, runfolder, store, train
from pruneboard.data import Dataset
from pruneboard.errors import InterruptedRunError, OutOfMemoryError, PruneboardError, RunError, StoreError
from pruneboard.launch import launch
from pruneboard.prepare import Job, open_data, pick_device, prepare, wants_cuda
from pruneboard.spec import RunSpec
from pruneboard.training import Listener
from pruneboard.world import World

logger = logging.getLogger("pruneboard")


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
    with peers.together(world, cuda=wants_cuda(spec)):
        job, dataset = prepare(spec)
        peers.check_same(job.hash)
        # Only the first process sees the results.
        finished = peers.agree(lambda: None if spec.force else store.finished(job.folder, job.hash))
        return finished or _attempt(job, listener or Silent(), world, dataset)


def bury(spec: RunSpec, message: str) -> dict[str, Any]:
    """Write the record of a run whose process is gone without having written one, and return it: failures are rows."""
    job, _ = prepare(spec)
    world = World.current()
    with _folder(job, world):
        return _put_unfinished(job, world, assemble.now(), RunError.status, "LostProcess", message)


def _attempt(job: Job, listener: Listener, world: World, dataset: Dataset) -> dict[str, Any]:
    with _folder(job, world), _recorded(job, world):
        outcome = launch(guarded, (job, listener), job.spec.procs, world, dataset)
        if world.leads:
            store.put(job.folder, outcome)
            runfolder.drop_checkpoints(job.folder)
    return outcome


def execute(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Do this process's part of a run and return its record; only the first process's is kept.

    model -> gates -> engine -> resume, where there is a checkpoint -> fit, which hardens on the way -> ablation, if
    asked for -> fold -> audit -> evaluate -> cost -> record.
    """
    started = time.perf_counter()
    device = pick_device(job.spec)
    cost.forget_peak_memory(device)
    if dataset is None:  # a started process opens the data itself
        dataset = open_data(job.spec, job.recipe, job.seeds)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training = assemble.training(job, dataset, device, listener, started)
        try:
            train.resume(training, assemble.attempt(job, training))
            train.fit(training)
            if job.spec.ablation:
                ablate.apply(job, training)
            return assemble.record(job, training)
        finally:
            training.engine.close()


def guarded(job: Job, listener: Listener, dataset: Dataset | None = None) -> dict[str, Any]:
    """Carry out `execute` and turn whatever stops it into an error of ours, with the traceback in this process's log.

    Raises:
        RunError: with the status the record gets.
    """
    world = World.current()
    watcher = Recorder(job.folder, listener, job.spec.tensorboard) if world.leads else Silent()
    log = job.folder / ("log.txt" if world.leads else f"log.rank{world.rank}.txt")
    with _logged(log, logging.INFO if world.leads else logging.ERROR):
        return _told(job, watcher, dataset, log)


def _told(job: Job, watcher: Listener, dataset: Dataset | None, log: Path) -> dict[str, Any]:
    try:
        return execute(job, watcher, dataset)
    except InterruptedRunError as error:
        raise peers.cause(error) from None
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


class Silent:
    """A listener that says nothing."""

    def on_step(self, step: int, total: int, loss: float) -> None:
        """Ignore it."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Ignore it."""

    def on_phase(self, message: str) -> None:
        """Ignore it."""


@dataclass
class Recorder:
    """Writes `metrics.jsonl`, `log.txt` and event files, and passes everything on to the user's listener."""

    folder: Path
    listener: Listener
    tensorboard: bool = False

    def on_step(self, step: int, total: int, loss: float) -> None:
        """Pass it on."""
        self.listener.on_step(step, total, loss)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Append the epoch to `metrics.jsonl`, then pass it on."""
        runfolder.append_metrics(self.folder, row)
        logger.info("epoch %s: validation top-1 %.4f", row["epoch"], row["validation"]["top1"])
        if self.tensorboard:
            _write_events(self.folder / "tensorboard", row)
        self.listener.on_epoch(row)

    def on_phase(self, message: str) -> None:
        """Log it and pass it on."""
        logger.info(message)
        self.listener.on_phase(message)


def _write_events(folder: Path, row: Mapping[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    scalars = {"loss": row["loss"], "lr": row["lr"], "sparsity": row["sparsity"]}
    scalars |= {f"validation/{name}": value for name, value in row["validation"].items()}
    for block in ("mask", "layers", "diagnostics"):
        scalars |= {f"{block}/{name}": value for name, value in row[block].items()}
    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, row["step"])


@contextmanager
def _folder(job: Job, world: World) -> Iterator[None]:
    """Hold the run's folder, ready for this attempt, while the block lasts; the first process does."""
    if not world.leads:
        yield
        return
    with runfolder.locked(job.folder):
        if not job.spec.force:
            assemble.keeper(job).check()
        runfolder.begin(job.folder, force=job.spec.force)
        yield


@contextmanager
def _recorded(job: Job, world: World) -> Iterator[None]:
    """Leave a record of any run that started and did not finish, then let the error go on."""
    started = assemble.now()
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
    made = assemble.unfinished(job, started, status, kind, message)
    if world.leads:
        try:
            store.put(job.folder, made)
        except StoreError as refused:
            raise RunError(f"{message}; nor could the record of it be written: {refused}") from None
    return made


class _LogFile(logging.FileHandler):
    """A file made with its first line, on hosts that have the run's folder: only the first process makes that."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line where there is a folder."""
        if Path(self.baseFilename).parent.is_dir():
            super().emit(record)


@contextmanager
def _logged(path: Path, level: int) -> Iterator[None]:
    """Send what we log from `level` on to a file while a run lasts."""
    # Without a handler logging would print tracebacks on standard error.
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()
