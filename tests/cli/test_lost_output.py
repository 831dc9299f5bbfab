"""Output that cannot be written: a reader that goes away, a full disk, and closed descriptors."""

from __future__ import annotations

import json
import shlex

import pytest

from command_cases import RUN, shell, swap
from fake_records import put, record

TRAIN = f"$P {shlex.join(RUN)}"
DIVERGING = f"$P {shlex.join(swap(RUN, '--epochs', '4'))} --lr 1e38 --clip 0"
NOISY = TRAIN.replace("--quiet", "")
FULL, CLOSED = "No space left on device", "Bad file descriptor"


def statuses(results):
    """The statuses of all records below `results`."""
    return sorted(json.loads(path.read_text())["status"] for path in results.rglob("run.json"))


@pytest.mark.parametrize("command", ["list models | head -n 1", "show {run} | true"])
def test_a_reader_that_goes_away_is_no_error(tmp_path, command):
    """A command whose reader has exited prints no error and exits with 0."""
    run = put(tmp_path, record())
    code, _, err = shell(f"$P {command.format(run=run)}; exit ${{PIPESTATUS[0]}}")
    assert (code, err) == (0, "")


def without_notes(err):
    """The lines of an output but the notes on the images, which every run of a limited data set begins with."""
    return [line for line in err.splitlines() if not line.startswith("note: ")]


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_work(tmp_path):
    """All seeds are run even if nothing reads the summary, the progress or the errors; the exit code is 0."""
    code, out, err = shell(f"{NOISY} --seeds 2 --results {tmp_path} 2>&1 | true; exit ${{PIPESTATUS[0]}}")
    assert (code, out, err) == (0, "", "")
    assert statuses(tmp_path) == ["done", "done"]


@pytest.mark.parametrize(("where", "reason"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_a_result_that_cannot_be_printed_is_one_line(tmp_path, where, reason):
    """A command that only prints exits with 1 and one line on standard error if it cannot print."""
    run = put(tmp_path, record())
    assert shell(f"$P show {run} {where}") == (1, "", f"error: cannot write to standard output: {reason}\n")


@pytest.mark.parametrize(
    ("where", "reason"), [(">/dev/full", FULL), pytest.param(">&-", CLOSED, marks=pytest.mark.slow)]
)
def test_the_exit_code_of_a_run_does_not_depend_on_its_output(tmp_path, where, reason):
    """A finished run exits with 0 and a failed one with 1, with one line about the output."""
    line = f"error: cannot write to standard output: {reason}\n"
    code, _, err = shell(f"{TRAIN} --results {tmp_path} {where}")
    assert (code, without_notes(err)) == (0, [line.strip()])
    assert statuses(tmp_path) == ["done"]
    code, _, err = shell(f"{DIVERGING} --json --results {tmp_path / 'failing'} {where}")
    assert code == 1
    errors = without_notes(err)
    assert sorted(errors) == [line.strip(), next(text for text in errors if "loss is" in text)]
    assert statuses(tmp_path / "failing") == ["diverged"]


@pytest.mark.parametrize("where", ["<&- >&- 2>&-", pytest.param(">/dev/full 2>/dev/full", marks=pytest.mark.slow)])
def test_a_run_without_any_output_is_a_run(tmp_path, where):
    """A run whose output, progress and input are all closed or full trains, writes its record and exits with 0."""
    assert shell(f"{NOISY} --results {tmp_path} {where}") == (0, "", "")
    assert statuses(tmp_path) == ["done"]
