"""Saves a finished run in another place if its results folder can no longer be written: training may take days."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pruneboard.errors import RunError, StoreError
from pruneboard.experiment.prepare import Job


def save_elsewhere(job: Job, problem: StoreError, write: Callable[[Path], object]) -> RunError | None:
    """Write a run into a new results folder, and return the error of this run, which says where that folder is.

    Args:
        job: the run.
        problem: the error with which its own folder refused the files.
        write: writes the files into the run folder it is called with.

    Returns:
        The error to raise; None if the files cannot be written anywhere.
    """
    results = Path(job.spec.results).absolute()
    for place in _places(results):
        try:
            root = Path(tempfile.mkdtemp(prefix=f"{results.name}-rescued-", dir=place))
        except OSError:
            continue
        try:
            write(root / job.folder.absolute().relative_to(results))
        except (OSError, StoreError):
            shutil.rmtree(root, ignore_errors=True)
            continue
        return RunError(
            f"{problem}; the trained network and its record are saved in {root}: "
            f"once {results} can be written, run pruneboard merge {root} --into {results}"
        )
    return None


def _places(results: Path) -> Iterator[str]:
    """Yield folders outside `results`, the nearest first."""
    yield str(results.parent)
    yield os.curdir
    yield os.path.expanduser("~")  # noqa: PTH111 - Path.home raises an error for a user without a home
    try:
        yield tempfile.gettempdir()
    except OSError:  # there is none that can be written
        return
