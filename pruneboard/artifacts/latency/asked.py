"""What a measurement is asked for: engines, batches, threads and a budget. No torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pruneboard.errors import UnknownNameError, UsageError

REFERENCE = "torch"
"""The dense network as it was trained, eager; always measured, since all ratios are to it."""

ENGINES = (REFERENCE, "torch-csr", "scipy-csr", "onnxruntime", "torch-2:4")
"""Every engine, in the order in which they are shown."""

DENSE = (REFERENCE, "onnxruntime")
"""Those that compute with every zero."""

_PACKAGES = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime")}


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and for how long.

    Attributes:
        engines: of `ENGINES`; None is all that can be had here, and says of the others why not.
        batches: images per call, one measurement each.
        threads: of every engine that can have more than one.
        seconds: of each batch's rounds, beyond the fewest.
        rounds: exactly so many instead.
        warmup: untimed calls of every engine before the first round.
        device: `cpu` or `cuda`.
    """

    engines: tuple[str, ...] | None = None
    batches: tuple[int, ...] = (1, 64)
    threads: int = 1
    seconds: float = 10.0
    rounds: int | None = None
    warmup: int = 2
    device: str = "cpu"


def engines(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the engines that `--engine` names, alone or separated by commas, each once.

    Raises:
        UnknownNameError: one that does not exist.
    """
    names = {name.strip() for text in texts for name in text.split(",")}
    for name in sorted(names - set(ENGINES)):
        raise UnknownNameError("engine", name, ENGINES)
    return tuple(name for name in ENGINES if name in names)


def check_packages(engine: str) -> None:
    """Refuse an engine that needs a package which is not there.

    Raises:
        UsageError: naming the extra that has it.
    """
    missing = [name for name in _PACKAGES.get(engine, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"engine {engine} needs {' and '.join(missing)}, not installed here: pip install 'pruneboard[onnx]'"
        )


def check_free(out: Path) -> None:
    """Refuse to write a measurement where something is already.

    Raises:
        UsageError: there is a file, or a folder.
    """
    if os.path.lexists(out):
        raise UsageError(f"--out {out} is already there: a measurement replaces nothing, name another file")
