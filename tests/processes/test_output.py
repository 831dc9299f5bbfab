"""Streams to which writing never raises."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruneboard.processes.output import SurvivingFile

FULL = Path("/dev/full")


def protected(code, **settings):
    """Run Python code after `protect`, and return its exit code, standard output and standard error."""
    program = f"import os, sys\nfrom pruneboard.processes import output\noutput.protect()\n{code}"
    done = subprocess.run(
        [sys.executable, *settings.pop("flags", ()), "-c", program],
        check=False,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings),
    )
    return done.returncode, done.stdout, done.stderr


def test_a_full_device_is_remembered_and_a_missing_reader_is_not():
    """After the first error everything is discarded; only an error other than a missing reader is kept."""
    with FULL.open("wb") as full:
        file = SurvivingFile(full.fileno())
        assert [file.write(b"one"), file.write(b"three")] == [3, 5]
        assert file.error.errno == errno.ENOSPC
    reading, writing = os.pipe()
    os.close(reading)
    file = SurvivingFile(writing)
    assert [file.write(b"one"), file.write(b"three")] == [3, 5]
    assert file.error is None
    os.close(writing)


def test_output_that_can_be_written_is_unchanged():
    """Text passes unchanged and in order, buffered or not, and nothing is reported."""
    code = "print('é', flush=True); print('b'); print('c', file=sys.stderr); print(output.stdout_failed())"
    for flags in ([], ["-u"]):
        assert protected(code, flags=flags, env={**os.environ, "PYTHONIOENCODING": "utf-8"}) == (
            0,
            "é\nb\nFalse\n",
            "c\n",
        )


def test_an_error_is_reported_once():
    """The first failed write to standard output is one line on standard error, buffered or not."""
    code = "[print(i, flush=True) for i in range(3)]; sys.exit(output.stdout_failed())"
    for flags in ([], ["-u"]):
        with FULL.open("wb") as full:
            found = protected(code, flags=flags, stdout=full)
        assert found == (1, None, "error: cannot write to standard output: No space left on device\n")


def test_a_file_never_becomes_a_standard_stream():
    """A file that is opened after `protect` does not get a closed standard descriptor."""
    code = "os.close(1); os.close(0); output.protect(); print(open(os.devnull).fileno() > 2, file=sys.stderr)"
    assert protected(code)[::2] == (0, "True\n")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8", "utf-8:surrogateescape"])
def test_characters_that_an_encoding_lacks_are_escaped(encoding):
    """Printing never fails: neither for a character that the encoding lacks, nor for a name that is not text."""
    code = r"print('é ★ \udcff', flush=True); print('é ★ \udcff', file=sys.stderr)"
    status, out, err = protected(code, text=False, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (status, out.count(b"\n"), err.count(b"\n")) == (0, 1, 1)
    assert b"Traceback" not in err


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything():
    """Output to a pipe that another program made non-blocking waits for the reader."""
    code = "os.set_blocking(1, False); print('x' * 10**6); sys.stdout.flush()"
    for flags in ([], ["-u"]):
        status, out, err = protected(code, flags=flags)
        assert (status, len(out), err) == (0, 10**6 + 1, "")
