"""Standard output and standard error that survive a reader that goes away, a full disk and a closed descriptor.

A run may take days, and its result is its record. So an output that cannot be written ends the output, not the run.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

from pruneboard.errors import why

STDOUT, STDERR = 1, 2


class SurvivingFile(io.FileIO):
    """A descriptor to which writing never raises: after the first error, everything is discarded.

    Attributes:
        error: the first error; None while there was none. A reader that went away, as in `| head`, is none.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to `descriptor`, which stays open."""
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None
        self._ended = False

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        """Write `data`, or discard it; the first error on standard output is reported on standard error."""
        if not self._ended:
            try:
                self._write_all(data)
            except BrokenPipeError:
                self._ended = True
            except OSError as error:
                self._ended, self.error = True, error
                if self.fileno() == STDOUT:
                    _report(error)
        return memoryview(data).nbytes

    def _write_all(self, data: bytes) -> None:
        """Write all of `data`: without a buffer, as with `python -u`, nothing would write the rest."""
        rest = memoryview(data)
        while rest:
            written = super().write(rest)
            if written is None:  # a non-blocking pipe whose reader is slow
                select.select([], [self], [])
            rest = rest[written or 0 :]


def _report(error: OSError) -> None:
    if sys.stderr is not None:
        print(f"error: cannot write to standard output: {why(error)}", file=sys.stderr, flush=True)


def protect() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams to which writing never raises."""
    _reopen_closed_descriptors()
    sys.stdout = _surviving(STDOUT, sys.stdout)
    sys.stderr = _surviving(STDERR, sys.stderr)


def stdout_failed() -> bool:
    """Return whether something that was written to a protected `sys.stdout` is lost, and not for want of a reader."""
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without buffering, as with `python -u`, the buffer is the file
    return isinstance(raw, SurvivingFile) and raw.error is not None


def _reopen_closed_descriptors() -> None:
    """Open the descriptors 0 to 2 that are closed, for reading: writing to them fails, as it did.

    Otherwise the next file that is opened, such as a checkpoint, would be standard output for every library.
    """
    while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= STDERR:  # the system returns the lowest free descriptor
        pass
    os.close(descriptor)


def _surviving(descriptor: int, stream: TextIO | None) -> TextIO:
    """Return a stream to `descriptor` with the encoding and buffering of `stream`, which is None if it was closed.

    What the encoding lacks is written as an escape sequence, such as the é of a folder's name in ASCII.
    """
    before = stream if isinstance(stream, io.TextIOWrapper) else None
    file: Any = SurvivingFile(descriptor)
    return io.TextIOWrapper(
        file if before and before.write_through else io.BufferedWriter(file),
        encoding=before.encoding if before else "utf-8",
        errors="surrogateescape" if before and _keeps_bytes(before) else "backslashreplace",
        line_buffering=before.line_buffering if before else True,
        write_through=before.write_through if before else False,
    )


def _keeps_bytes(stream: TextIO) -> bool:
    """Return whether names of files that are not text are written byte for byte, as Python does in the C locale."""
    return stream.errors == "surrogateescape" and stream.encoding.lower().replace("-", "") == "utf8"
