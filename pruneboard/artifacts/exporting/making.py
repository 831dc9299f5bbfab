"""The walk of `pruneboard export`: a run's folder in, files that load without pruneboard out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pruneboard.artifacts.exporting import asked, files, graph, guide, matrices, tensors
from pruneboard.artifacts.exporting.load_csr import ARRAYS
from pruneboard.artifacts.exporting.subject import Subject, checked
from pruneboard.errors import UsageError
from pruneboard.models.standalone import in_timm
from pruneboard.records import store

FOLDER = "export"
"""Where files go if nothing else is said, in the run's folder."""

README, NETWORK = "README.md", "network.py"

_WRITERS: dict[str, tuple[str, Callable[[Subject, Path], str]]] = {
    "safetensors": (tensors.FILE, tensors.write),
    "csr": (ARRAYS, matrices.write),
    "onnx": (graph.FILE, graph.write),
}


@dataclass(frozen=True)
class Form:
    """One form of an exported network.

    Attributes:
        name: one of `asked.FORMATS`.
        path: its main file; None where it could not be made.
        size: bytes of that file; 0 where there is none.
        note: what was written and found to hold, or why nothing was.
    """

    name: str
    path: Path | None
    size: int
    note: str


def export(
    run: Path, *, out: Path | None = None, formats: Iterable[str] | None = None, force: bool = False
) -> list[Form]:
    """Write a finished run in some forms, each read again and compared before it is put in place.

    Args:
        run: its folder, or its `run.json`.
        out: folder of the files; by default `export` in that of the run.
        formats: of `asked.FORMATS`; None is all that can be made here, and says of the others why not.
        force: replace files that are there with other content; equal content is always left as it is.

    Raises:
        NotFoundError: there is no record.
        UsageError: the run is not done, has no weights, cannot be read or built here, or a form that was asked for
            cannot be made.
        ConformanceError: the run is disputed, or a file does not give back what was written to it.
        StoreError: files with other content are there, or the disk refuses.
    """
    folder, record = asked.finished(run)
    place = out or folder / FOLDER
    if os.path.lexists(place / store.RUN):
        raise UsageError(f"--out {place} is the folder of a run, whose {store.WEIGHTS} stays as it is: name another")
    for name in formats or ():
        asked.check_packages(name)
    subject = checked(folder, record)
    with files.together(place, force=force) as made:
        found = [_form(subject, name, made, place, optional=formats is None) for name in formats or asked.FORMATS]
        (made / README).write_text(guide.text(subject), encoding="utf-8")
        if not in_timm(subject.plan.load_as):
            source = resources.files("pruneboard.models").joinpath("standalone.py").read_text(encoding="utf-8")
            (made / NETWORK).write_text(source, encoding="utf-8")
    return found


def _form(subject: Subject, name: str, made: Path, place: Path, *, optional: bool) -> Form:
    file, write = _WRITERS[name]
    try:
        note = write(subject, made)
    except UsageError as error:
        if not optional:
            raise
        return Form(name, None, 0, f"not made: {error}")
    return Form(name, place / file, (made / file).stat().st_size, note)
