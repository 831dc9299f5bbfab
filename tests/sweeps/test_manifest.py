"""Sweep manifests: they are read as written, damaged ones are refused, and a run's status is read from its folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_records import put, record
from manifest_cases import DAMAGED, RUN, VALID, entry, epoch, folder_of, stopped
from pruneboard.errors import NotFoundError, StoreError
from pruneboard.records import runfolder
from pruneboard.sweeps import manifest
from pruneboard.sweeps.manifest import ManifestEntry, RunStatus

HOLDER = """
import sys
from pathlib import Path
from pruneboard.records import runfolder
with runfolder.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def status_of(results, made):
    """Return the status of the run that a record belongs to."""
    return manifest.run_status(results, entry(made))


# Status of a run


def test_a_finished_run_has_its_test_accuracy_and_its_time(tmp_path):
    """The status of a finished run contains the test top-1 and the wall time of its record."""
    made = record("dense", None, top1=0.875, cost__wall_seconds=80.5)
    put(tmp_path, made)
    assert status_of(tmp_path, made) == RunStatus(entry(made), "done", top1=0.875, seconds=80.5)


@pytest.mark.parametrize("status", ["diverged", "failed", "oom", "invalid", "interrupted"])
def test_a_failed_run_has_the_status_and_the_message_of_its_record(tmp_path, status):
    """The status of a run without a result is that of its record, with the message of the error."""
    made = record(status=status)
    put(tmp_path, made)
    assert status_of(tmp_path, made) == RunStatus(entry(made), status, message=f"the run is {status}")


def test_without_a_folder_a_run_is_missing(tmp_path):
    """A run without a record or a checkpoint is missing, even if its folder has metrics."""
    made = record()
    assert status_of(tmp_path, made).status == "missing"
    runfolder.begin(folder_of(tmp_path, made))
    runfolder.append_metrics(folder_of(tmp_path, made), epoch(1, 0.5))
    assert status_of(tmp_path, made) == RunStatus(entry(made), "missing")


def test_a_run_with_a_checkpoint_is_stopped(tmp_path):
    """A run with a checkpoint and no record is stopped, at the epoch of the last line of its metrics."""
    made = stopped(tmp_path, 0, epoch(1, 0.5), epoch(2, 0.625))
    assert status_of(tmp_path, made) == RunStatus(entry(made), "stopped", epoch=2, top1=0.625)


@pytest.mark.parametrize(
    "last",
    [
        "",
        "{",
        "[]",
        "null",
        '{"epoch": 1}',
        '{"epoch": 1, "validation": []}',
        '{"epoch": "1", "validation": {"top1": 0.5}}',
        '{"epoch": true, "validation": {"top1": 0.5}}',
        '{"epoch": 1, "validation": {"top1": null}}',
        '{"epoch": 1, "validation": {"top1": NaN}}',
        '{"epoch": 1, "validation": {"top1": Infinity}}',
        '{"epoch": 1, "validation": {"top1": 1' + "0" * 400 + "}}",
        "[" * 100_000,
        "\x00\ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=lambda last: str(last)[:40],
)
def test_a_damaged_line_of_metrics_is_ignored(tmp_path, last):
    """If the last line of the metrics is damaged, the run is still stopped, but without an epoch."""
    made = stopped(tmp_path, 0, epoch(1, 0.5))
    data = last if isinstance(last, bytes) else last.encode()
    (folder_of(tmp_path, made) / runfolder.METRICS).write_bytes(data)
    assert status_of(tmp_path, made) == RunStatus(entry(made), "stopped")


def test_a_run_is_running_while_a_process_holds_its_folder(tmp_path):
    """A run is running while its folder is locked, and stopped after its process was killed."""
    made = stopped(tmp_path, 0, epoch(1, 0.5))
    command = [sys.executable, "-c", HOLDER, str(folder_of(tmp_path, made))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert status_of(tmp_path, made) == RunStatus(entry(made), "running", epoch=1, top1=0.5)
        with pytest.raises(StoreError, match=f"process {holder.pid} "), runfolder.locked(folder_of(tmp_path, made)):
            pass
        holder.kill()
    assert status_of(tmp_path, made).status == "stopped"
    with runfolder.locked(folder_of(tmp_path, made)):
        assert status_of(tmp_path, made).status == "running"


def test_a_damaged_record_is_unreadable(tmp_path):
    """A damaged record has the status `unreadable`, with the reason."""
    made = record()
    folder_of(tmp_path, made).mkdir(parents=True)
    (folder_of(tmp_path, made) / "run.json").write_text("{")
    found = status_of(tmp_path, made)
    assert found.status == "unreadable"
    assert "JSON" in found.message


# Remaining time


def status(method, track, name, seconds=None):
    """Return a status of a run with this method and track."""
    run = ManifestEntry(dataset="d", model="m", track=track, method=method, sparsity=0.5, seed=0, hash="0" * 64)
    return RunStatus(run, name, seconds=seconds)


def test_the_remaining_time_follows_from_the_same_method_and_track():
    """An unfinished run counts with the mean time of its method and track, or else of all; a failed one does not."""
    done = [status("a", "prune", "done", 10), status("a", "prune", "done", 20), status("b", "supermask", "done", 60)]
    left = [status("a", "prune", name) for name in ("missing", "running", "stopped", "interrupted")]
    assert manifest.seconds_left([*done, *left, status("a", "prune", "diverged")], 1) == 4 * 15
    assert manifest.seconds_left([*done, *left], 3) == pytest.approx(4 * 15 / 3)
    assert manifest.seconds_left([*done, status("a", "supermask", "missing")], 1) == 30  # the mean of all finished runs
    assert manifest.seconds_left(done, 1) == 0
    assert manifest.seconds_left(left, 1) is None


# Manifests


def test_a_manifest_is_read_as_written(tmp_path):
    """A manifest keeps the order of its runs, and every board has its own manifest."""
    runs = [entry(record("probmask", 0.9, seed)) for seed in (3, 1)] + [entry(record("dense", None))]
    first = manifest.write(tmp_path, "b", runs, 4)
    second = manifest.write(tmp_path, "a", [], 1)
    assert manifest.read(first) == ("b", 4, runs)
    assert manifest.read(second) == ("a", 1, [])
    assert manifest.find_manifests(tmp_path) == [second, first]


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_manifest_is_refused(tmp_path, content):
    """Anything but a valid manifest of this schema is a StoreError that names the file."""
    path = manifest.manifest_path(tmp_path, "b")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        manifest.read(path)
    assert str(caught.value).startswith(f"{path} is not a valid sweep manifest: ")


def test_a_manifest_must_be_a_regular_file(tmp_path):
    """A missing manifest is a NotFoundError with the command to use; a folder in its place is a StoreError."""
    with pytest.raises(NotFoundError, match="start one with"):
        manifest.read(manifest.manifest_path(tmp_path, "b"))
    path = manifest.manifest_path(tmp_path, "b")
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="not a regular file"):
        manifest.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(field=st.sampled_from([*RUN]), value=JSON)
@example(field="hash", value="../../../etc")
@example(field="model", value="\0")
@example(field="dataset", value="\ud800")
@example(field="sparsity", value=1e308)
@example(field="seed", value=-(10**4000))
@example(field="method", value="failures")
def test_a_run_with_any_field_values_is_refused_or_has_a_status(field, value):
    """With any value in any field, reading a manifest raises StoreError or returns runs that are missing on disk."""
    with tempfile.TemporaryDirectory() as results:
        path = manifest.write(results, "b", [], 1)
        path.write_text(json.dumps(VALID | {"runs": [RUN | {field: value}]}))
        try:
            _, jobs, runs = manifest.read(path)
        except StoreError:
            return
        (found,) = [manifest.run_status(results, run) for run in runs]
        assert found.status == "missing"
        assert manifest.seconds_left([found], jobs) is None
        assert json.loads(json.dumps(manifest.as_json("b", [found], None)))["counts"] == {"missing": 1}


def test_a_manifest_has_the_name_of_its_board(tmp_path):
    """The manifest of a board is sweeps/BOARD.json in the results folder."""
    assert manifest.write(tmp_path, "some", [], 1) == Path(tmp_path, "sweeps", "some.json")


def test_a_partial_sweep_keeps_the_other_runs_in_the_manifest(tmp_path):
    """A sweep of a part of a board adds its runs to the manifest; one of the whole board replaces it."""
    first, second = entry(record("gmp")), entry(record("str"))
    manifest.write(tmp_path, "some", [first], 1)
    manifest.write(tmp_path, "some", [second, first], 2, part=True)
    assert manifest.read(manifest.manifest_path(tmp_path, "some"))[1:] == (2, [first, second])
    manifest.write(tmp_path, "some", [second], 2)
    assert manifest.read(manifest.manifest_path(tmp_path, "some"))[2] == [second]
    manifest.manifest_path(tmp_path, "some").write_text("damaged")
    manifest.write(tmp_path, "some", [first], 1, part=True)
    assert manifest.read(manifest.manifest_path(tmp_path, "some"))[2] == [first]


def test_manifests_behind_a_link_are_neither_read_nor_written(tmp_path):
    """`sweeps/` may not lead out of the results, and a run behind a link is unreadable."""
    results, outside = tmp_path / "results", tmp_path / "outside"
    made = record()
    folder_of(results, made).parent.mkdir(parents=True)
    outside.mkdir()
    (results / "sweeps").symlink_to(outside)
    for act in (lambda: manifest.write(results, "b", [], 1), lambda: manifest.find_manifests(results)):
        with pytest.raises(StoreError, match="symbolic link"):
            act()
    assert list(outside.iterdir()) == []
    folder = folder_of(results, made)
    run = entry(made)
    folder.symlink_to(outside)
    assert manifest.run_status(results, run).status == "unreadable"
