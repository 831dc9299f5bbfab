"""What an export is asked for: a finished run, the forms, and the packages that they need. No torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from pruneboard import report
from pruneboard.errors import StoreError, UnknownNameError, UsageError
from pruneboard.records import store
from pruneboard.records.schema import Record

FORMATS = ("safetensors", "csr", "onnx")
"""Every form, in the order in which they are made."""

_PACKAGES = {"onnx": ("onnx", "onnxscript")}


def formats(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the forms that `--format` names, alone or separated by commas, each once.

    Raises:
        UnknownNameError: one that does not exist.
    """
    names = {name.strip() for text in texts for name in text.split(",")}
    for name in sorted(names - set(FORMATS)):
        raise UnknownNameError("format", name, FORMATS)
    return tuple(name for name in FORMATS if name in names)


def check_packages(form: str) -> None:
    """Refuse a form that needs a package which is not there.

    Raises:
        UsageError: naming the extra that has it.
    """
    missing = [name for name in _PACKAGES.get(form, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"format {form} needs {' and '.join(missing)}, not installed here: pip install 'pruneboard[{form}]'"
        )


def finished(run: Path, done: str = "exported") -> tuple[Path, Record]:
    """Return the folder of a finished run that has its weights, and its record.

    Args:
        run: the run's folder, or its `run.json`.
        done: what is to be done to it, as messages say it.

    Raises:
        NotFoundError: there is no record.
        StoreError: it cannot be read, or there are no weights beside it.
        UsageError: the run is not done.
    """
    path = run / store.RUN if run.is_dir() else run
    try:
        record = store.read(path)
    except StoreError as error:
        raise StoreError(report.printable(f"{path}: {error}", 500)) from None
    if record["status"] != "done":
        raise UsageError(f"{path} has status {record['status']}: only a finished run is {done}")
    if not os.path.lexists(path.parent / store.WEIGHTS):
        raise StoreError(
            f"there is no {store.WEIGHTS} beside {path}: a record alone cannot be {done}; "
            "copy the weights from where the run was made, or run it again with --force"
        )
    return path.parent, record
