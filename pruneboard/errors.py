"""Every error that pruneboard raises on purpose, and the exit code each one ends a command with.

    PruneboardError                 1
      UsageError                    2   the request is wrong: nothing was run, nothing was written
        UnknownNameError            2   a method, model, data set, recipe, option or key that does not exist
        DataError                   2   a data set that cannot be read: missing, empty, corrupt
        PluginError                 2   a plugin that cannot be loaded or breaks the interface
        StoreError                  2   a results folder that cannot be read or written
      RunError                      1   a run that started and failed; it leaves a record with `status`
        DivergedError               1   the loss is no longer finite
        AuditError                  1   the folded model breaks the contract (sparsity, masks, weights)
        OutOfMemoryError            1   the device or the host has no memory left
      ConformanceError              3   a validation or conformance check failed
      NotFoundError                 4   no record where one was asked for
      InterruptedRunError          75   stopped by SIGTERM or by the loss of a process; the same command goes on
        LostPeerError              75   the same, as another process of the run noticed it

A message says what was found, where, what is allowed, and what to do. The command line prints it as
one line, without a traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar


class PruneboardError(Exception):
    """Base of all of them."""

    exit_code: ClassVar[int] = 1


class UsageError(PruneboardError):
    """The request itself is wrong: nothing was run and nothing was written."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str], hint: str = "") -> None:
        """`kind` is the noun shown ("method"), `hint` says where to look when nothing is near."""
        near = did_you_mean(name, allowed)
        pause = " " if near.endswith("?") else "; "
        super().__init__(f"unknown {kind} {name!r}{near}{pause + hint if hint else ''}")


class DataError(UsageError):
    """A data set that cannot be read: missing, empty, or with a file that does not decode."""


class PluginError(UsageError):
    """A plugin that cannot be imported, is not a pruner, or rejects its options."""


class StoreError(UsageError):
    """A results folder that cannot be read or written."""


class RunError(PruneboardError):
    """A run that started and failed; `status` is what its record says, `record` that record once it is written."""

    status: ClassVar[str] = "failed"
    record: dict[str, Any] | None = None


class DivergedError(RunError):
    """The loss is no longer a finite number."""

    status = "diverged"


class AuditError(RunError):
    """The folded model breaks the contract: wrong count, masks that differ, weights that moved."""

    status = "invalid"


class OutOfMemoryError(RunError):
    """The device, or the host, has no memory left."""

    status = "oom"


class ConformanceError(PruneboardError):
    """A validation or conformance check failed."""

    exit_code = 3


class NotFoundError(PruneboardError):
    """No record where one was asked for."""

    exit_code = 4


class InterruptedRunError(PruneboardError):
    """A run stopped from outside (SIGTERM, a lost process): the same command goes on with it."""

    exit_code = 75


class LostPeerError(InterruptedRunError):
    """The connection to another process of the run broke: all that this one knows is that it is gone."""


def rebuilt(kind: str, message: str) -> PruneboardError:
    """Return the error of class `kind` with `message`, as another process told it; a `RunError` if there is none."""
    found = globals().get(kind)
    cls = found if isinstance(found, type) and issubclass(found, PruneboardError) else RunError
    error = cls.__new__(cls)
    error.args = (message,)
    return error


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `": did you mean X?"`, or the whole list when nothing is near and it is short."""
    names = sorted(set(allowed))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(near)}?"
    if 0 < len(names) <= 20:
        return f": choose from {', '.join(names)}"
    return ""


def why(error: OSError) -> str:
    """Return what the system says, without the path it says it of."""
    return error.strerror or str(error)


def plain(text: object, limit: int = 200) -> str:
    """Return untrusted text, such as a record's, on one line of at most `limit` characters, safe for a terminal.

    It removes every character of Unicode's category C: control codes and escape sequences, text direction marks,
    and lone surrogates, which no encoding accepts.
    """
    clean = " ".join(str(text)[: 4 * limit].split())
    if not clean.isprintable():  # printable text, nearly all of it, has no character of category C
        clean = "".join(char for char in clean if unicodedata.category(char)[0] != "C")
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
