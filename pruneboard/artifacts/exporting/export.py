"""Export a run: read its folder, and write files that load without pruneboard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pruneboard.artifacts import finished_run
from pruneboard.artifacts.exporting import csr_files, onnx_file, readme, safetensors_file
from pruneboard.artifacts.exporting.load_csr import ARRAYS
from pruneboard.artifacts.exporting.options import FORMATS
from pruneboard.artifacts.exporting.staging import staged
from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.errors import UsageError
from pruneboard.models.standalone import in_timm
from pruneboard.records import store

DEFAULT_FOLDER = "export"
"""Where the files go without `--out`, relative to the run's folder."""

README, NETWORK = "README.md", "network.py"

_WRITERS: dict[str, tuple[str, Callable[[FinishedRun, Path], str]]] = {
    "safetensors": (safetensors_file.FILE, safetensors_file.write),
    "csr": (ARRAYS, csr_files.write),
    "onnx": (onnx_file.FILE, onnx_file.write),
}
"""Format -> its main file, and the function that writes all its files and returns a note."""


@dataclass(frozen=True)
class ExportedFormat:
    """The result of exporting to one format.

    Attributes:
        name: the format's name.
        path: its main file; None if it could not be made.
        size: bytes of that file; 0 if there is none.
        note: what was written and checked, or why the format could not be made.
    """

    name: str
    path: Path | None
    size: int
    note: str


def export(
    run: Path, *, out: Path | None = None, formats: Iterable[str] | None = None, force: bool = False
) -> list[ExportedFormat]:
    """Write a finished run in one or more formats; each file is read back and compared before it gets its name.

    Args:
        run: the run's folder, or its `run.json`.
        out: folder for the files; by default `export` in the run's folder.
        formats: names of `FORMATS`. None makes every format that this machine supports, and notes for each other one
            why it cannot be made.
        force: replace existing files whose content differs. Files with equal content are always left alone.

    Raises:
        NotFoundError: there is no record.
        UsageError: the run is not done, has no weights, or cannot be read or built here; or a requested format cannot
            be made.
        ConformanceError: the run is disputed, or a file read back differs from what was written.
        StoreError: files with other content exist, or a file cannot be written.
    """
    folder, record = finished_run.find(run, "exported")
    place = out or store.inside(folder / DEFAULT_FOLDER, folder)
    if os.path.lexists(place / store.RUN):
        raise UsageError(f"--out {place} is the folder of a run, whose {store.WEIGHTS} must not change: choose another")
    for name in formats or ():
        FORMATS.check_packages(name)
    loaded = finished_run.load(folder, record, "exported")
    with staged(place, force=force) as staging:
        results = [_write(loaded, name, staging, place, optional=formats is None) for name in formats or FORMATS.names]
        (staging / README).write_text(readme.text(loaded), encoding="utf-8")
        if not in_timm(loaded.plan.load_as):
            source = resources.files("pruneboard.models").joinpath("standalone.py").read_text(encoding="utf-8")
            (staging / NETWORK).write_text(source, encoding="utf-8")
    return results


def _write(run: FinishedRun, name: str, staging: Path, place: Path, *, optional: bool) -> ExportedFormat:
    file, write = _WRITERS[name]
    try:
        note = write(run, staging)
    except UsageError as error:
        if not optional:
            raise
        return ExportedFormat(name, None, 0, f"not made: {error}")
    return ExportedFormat(name, place / file, (staging / file).stat().st_size, note)
