"""The errors that pruneboard raises on purpose, and the exit code with which each one ends a command.

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
      NotFoundError                 4   no record was found where one is required
      InterruptedRunError          75   stopped by SIGTERM or by the loss of a process; the same command resumes it
        LostPeerError              75   the same, noticed by another process of the run

A message says in one line what was found, where, what is allowed, and what to do. The command line prints it without
a traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar


class PruneboardError(Exception):
    """Base class of these errors."""

    exit_code: ClassVar[int] = 1


class UsageError(PruneboardError):
    """The request itself is wrong: nothing was run and nothing was written."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that does not exist; the message suggests the most similar ones that do."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str], hint: str = "") -> None:
        """Compose the message.

        Args:
            kind: the noun shown in the message, such as `method`.
            name: the unknown name.
            allowed: the names that exist.
            hint: where to look, appended to the message.
        """
        near = did_you_mean(name, allowed)
        separator = " " if near.endswith("?") else "; "
        super().__init__(f"unknown {kind} {name!r}{near}{separator + hint if hint else ''}")


class DataError(UsageError):
    """A data set that cannot be read: missing, empty, or with a file that cannot be decoded."""


class PluginError(UsageError):
    """A plugin that cannot be imported, is not a pruner, or rejects its options."""


class StoreError(UsageError):
    """A results folder that cannot be read or written."""


class RunError(PruneboardError):
    """A run that started and failed.

    Attributes:
        status: the status in the run's record.
        record: that record, once it is written.
    """

    status: ClassVar[str] = "failed"
    record: dict[str, Any] | None = None


class DivergedError(RunError):
    """The loss is no longer a finite number."""

    status = "diverged"


class AuditError(RunError):
    """The folded model breaks the contract: a wrong count, masks that differ, or weights that changed."""

    status = "invalid"


class OutOfMemoryError(RunError):
    """The device or the host has no memory left."""

    status = "oom"


class ConformanceError(PruneboardError):
    """A validation or conformance check failed."""

    exit_code = 3


class NotFoundError(PruneboardError):
    """No record was found where one is required."""

    exit_code = 4


class InterruptedRunError(PruneboardError):
    """A run that was stopped by SIGTERM or by the loss of a process; the same command resumes it."""

    exit_code = 75


class LostPeerError(InterruptedRunError):
    """The connection to another process of the run was lost, for a reason that this process does not know."""


def rebuilt(kind: str, message: str) -> PruneboardError:
    """Return an error that another process reported, from the name of its class and its message.

    Args:
        kind: the name of a class in this module; any other name gives a `RunError`.
        message: the error's message.
    """
    found = globals().get(kind)
    cls = found if isinstance(found, type) and issubclass(found, PruneboardError) else RunError
    error = cls.__new__(cls)  # not cls(message): `UnknownNameError` composes its message from other arguments
    error.args = (message,)
    return error


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return a suggestion for a misspelled name, to be appended to a message.

    Returns:
        `": did you mean X?"`, or without a similar name the list of `allowed`, if it has at most 20 names, else `""`.
    """
    names = sorted(set(allowed))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(near)}?"
    if 0 < len(names) <= 20:
        return f": choose from {', '.join(names)}"
    return ""


def why(error: OSError) -> str:
    """Return the operating system's description of an error, without the path."""
    return error.strerror or str(error)


def described(error: BaseException) -> str:
    """Return an error's message; a third-party error may raise another one when it is asked for its message."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # noqa: BLE001 - whatever it raises
        return f"its message cannot be read: {type(other).__name__}"


def printable(text: object, limit: int = 200) -> str:
    """Return untrusted text, such as a record's, on one line of at most `limit` characters, safe for a terminal.

    It removes every character of Unicode's category C: control codes and escape sequences, text direction marks,
    and lone surrogates, which no encoding accepts.
    """
    clean = " ".join(str(text)[: 4 * limit].split())
    if not clean.isprintable():  # printable text, nearly all of it, has no character of category C
        clean = "".join(char for char in clean if unicodedata.category(char)[0] != "C")
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def on_one_line(text: object) -> str:
    """Return text with every control character, such as a line break in the name of a file, as an escape sequence.

    Unlike `printable` it removes nothing, so that paths stay recognizable.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
