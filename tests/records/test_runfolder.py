"""The folder of a run in progress: lock, attempts, metrics, and checkpoints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fake_records import put, record
from folders import files_below
from pruneboard.errors import StoreError
from pruneboard.records import runfolder, store

HOLDER = """
import sys
from pathlib import Path
from pruneboard.records import runfolder
with runfolder.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLDER, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


# The lock


def test_a_lock_excludes_other_processes_and_names_its_holder(tmp_path, holder):
    """A second process is refused with the number and the host of the first."""
    assert runfolder.is_locked(tmp_path)
    expected = f"process {holder.pid} on {socket.gethostname()} is working on {tmp_path}: wait for it to end"
    with pytest.raises(StoreError, match=expected), runfolder.locked(tmp_path):
        pass
    assert runfolder.is_locked(tmp_path), "the attempt must not have released the lock of the other process"


def test_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    """Its file remains, but neither locks the folder nor keeps another process out."""
    holder.kill()
    holder.wait()
    assert (tmp_path / runfolder.LOCK).exists()
    assert not runfolder.is_locked(tmp_path)
    with runfolder.locked(tmp_path):
        assert runfolder.is_locked(tmp_path)
    assert files_below(tmp_path) == []


def test_locking_creates_the_folder_and_removes_the_lock_file(tmp_path):
    """The lock file exists only while the lock is held."""
    folder = tmp_path / "a" / "b"
    with runfolder.locked(folder):
        assert files_below(folder) == [runfolder.LOCK]
    assert files_below(folder) == []
    assert not runfolder.is_locked(folder)


def test_an_error_releases_the_lock(tmp_path):
    """Whatever ends the block, the folder can be locked again."""
    with pytest.raises(KeyError), runfolder.locked(tmp_path):
        raise KeyError
    with runfolder.locked(tmp_path):
        assert files_below(tmp_path) == [runfolder.LOCK]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_a_folder_that_cannot_be_written_is_an_error():
    """Locking it, preparing it and appending metrics to it fail with one line."""
    folder = Path("/proc/self/results")
    with pytest.raises(StoreError, match=f"cannot make {folder} ready for a run: "), runfolder.locked(folder):
        pass
    with pytest.raises(StoreError, match=f"cannot make {folder} ready for a run: "):
        runfolder.begin(folder)
    with pytest.raises(StoreError, match=f"cannot write {folder}/metrics.jsonl: "):
        runfolder.append_metrics(folder, {})


# Attempts


def test_failed_records_are_numbered_and_kept(tmp_path):
    """Each attempt moves the previous failed record to `failures/NN.json` and removes its other files."""
    made = [record(status=status) for status in ("diverged", "oom", "invalid")]
    for attempt in made:
        folder = put(tmp_path, attempt)
        runfolder.append_metrics(folder, {"step": 1})
        for name in ("model.safetensors", "mask.npz", "log.txt", "events.out.tfevents.1"):
            (folder / name).touch()
    runfolder.begin(folder)
    assert files_below(folder) == ["failures", *(f"failures/0{i}.json" for i in (1, 2, 3))]
    assert [store.read(folder / "failures" / f"0{i}.json") for i in (1, 2, 3)] == made


def test_a_number_is_not_used_twice(tmp_path):
    """The next number follows the highest one, even if earlier files were removed."""
    folder = put(tmp_path, record(status="oom"))
    (folder / "failures").mkdir()
    (folder / "failures" / "99.json").touch()
    runfolder.begin(folder)
    assert files_below(folder / "failures") == ["100.json", "99.json"]


def test_no_record_is_replaced_after_the_last_number(tmp_path):
    """After a record with the highest number that is recognized, further ones get numbers that do not exist."""
    folder = put(tmp_path, record(status="failed"))
    (folder / "failures").mkdir()
    (folder / "failures" / "999999999.json").write_text("{}")
    for _ in range(3):
        runfolder.begin(folder)
        store.put(folder, record(status="failed"))
    assert len(list((folder / "failures").iterdir())) == 4


def test_a_finished_record_moves_only_with_force(tmp_path):
    """Without `force` a finished record is an error; with it, the record moves to `superseded/NN.json`."""
    first, second = record(top1=0.8), record(top1=0.9)
    folder = put(tmp_path, first)
    with pytest.raises(StoreError, match="--force"):
        runfolder.begin(folder)
    assert store.read(folder / "run.json") == first
    put(tmp_path, second, force=True)
    assert store.read(folder / "superseded" / "01.json") == first
    assert store.read(folder / "run.json") == second


def test_an_unreadable_record_is_kept_as_a_failure(tmp_path):
    """A damaged `run.json` moves to `failures/` byte for byte."""
    (tmp_path / "run.json").write_bytes(b"\xff{")
    runfolder.begin(tmp_path)
    assert (tmp_path / "failures" / "01.json").read_bytes() == b"\xff{"


def test_metrics_are_one_json_line_each(tmp_path):
    """Rows are appended in order; a loss that is not finite becomes null."""
    runfolder.append_metrics(tmp_path, {"step": 0, "loss": 2.5})
    runfolder.append_metrics(tmp_path, {"step": 1, "validation": {"loss": float("nan")}})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "loss": 2.5}, {"step": 1, "validation": {"loss": None}}]


def test_the_record_of_an_interrupted_run_stays(tmp_path):
    """It is not a failure: it remains `run.json` until the run has ended."""
    made = record(status="interrupted")
    folder = put(tmp_path, made)
    runfolder.begin(folder)
    assert files_below(folder) == ["run.json"]
    assert store.read(folder / "run.json") == made


def write_attempt(folder):
    """Write the files that an attempt leaves when it is stopped, and return their names."""
    runfolder.add_checkpoint(folder, 7, lambda path: path.write_bytes(b"state"))
    kept = ["metrics.jsonl", "log.txt", "log.rank1.txt", "events.out.tfevents.1"]
    incomplete = ["model.safetensors", "mask.npz", ".run.json.0.part", "checkpoints/.step.part"]
    for name in kept + incomplete:
        (folder / name).touch()
    return kept


def test_an_attempt_that_resumes_keeps_metrics_and_logs(tmp_path):
    """Beside a checkpoint only incomplete files are removed."""
    kept = write_attempt(tmp_path)
    runfolder.begin(tmp_path)
    assert files_below(tmp_path) == sorted([*kept, "checkpoints", "checkpoints/step-000000007.safetensors"])


def test_force_starts_from_an_empty_folder(tmp_path):
    """Checkpoints and all files of the earlier attempt are removed."""
    write_attempt(tmp_path)
    runfolder.begin(tmp_path, force=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Metrics


@pytest.mark.parametrize("step", [0, 5, 10, 15, 99])
def test_metrics_are_truncated_to_a_step(tmp_path, step):
    """Lines after the step and an incomplete last line are removed, as the run would write them again."""
    for row in (5, 10, 15):
        runfolder.append_metrics(tmp_path, {"step": row})
    with (tmp_path / runfolder.METRICS).open("a") as file:
        file.write('{"step": 1')
    runfolder.truncate_metrics(tmp_path, step)
    lines = (tmp_path / runfolder.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [row for row in (5, 10, 15) if row <= step]


# Checkpoints


def test_the_last_two_checkpoints_are_kept(tmp_path):
    """They are listed by step, the newest first, and other files are ignored."""
    for step in (9, 10, 100):
        runfolder.add_checkpoint(tmp_path, step, lambda path: path.write_bytes(b"state"))
        (tmp_path / "checkpoints" / "notes.txt").touch()
    assert [path.name for path in runfolder.checkpoints(tmp_path)] == [
        "step-000000100.safetensors",
        "step-000000010.safetensors",
    ]
    runfolder.drop_checkpoints(tmp_path)
    assert files_below(tmp_path) == ["checkpoints", "checkpoints/notes.txt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(tmp_path):
    """An error while writing is one line, and the earlier checkpoint can still be read."""
    runfolder.add_checkpoint(tmp_path, 1, lambda path: path.write_bytes(b"one"))

    def fail(path):
        path.write_bytes(b"par")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"step-000000002\.safetensors: No space left on device"):
        runfolder.add_checkpoint(tmp_path, 2, fail)
    (path,) = runfolder.checkpoints(tmp_path)
    assert path.read_bytes() == b"one"
    assert files_below(tmp_path / "checkpoints") == [path.name]


def test_a_run_without_checkpoints_has_none(tmp_path):
    """Listing and removing the checkpoints of a new folder does not raise an error."""
    assert runfolder.checkpoints(tmp_path) == []
    runfolder.drop_checkpoints(tmp_path)
    assert files_below(tmp_path) == []


# Links


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "log.txt", "checkpoints", "failures", "superseded", "tensorboard", ".lock", "run.json"],
)
@pytest.mark.parametrize("prepare", [runfolder.begin, lambda folder: runfolder.locked(folder).__enter__()])
def test_a_link_in_a_run_folder_is_refused(tmp_path, name, prepare):
    """An attempt would write to, delete from or read what the link leads to, so it does not start."""
    outside, folder = tmp_path / "outside", tmp_path / "run"
    (outside / "step-000000001.safetensors").mkdir(parents=True)
    (outside / "01.json").touch()
    folder.mkdir()
    (folder / name).symlink_to(outside if "." not in name else outside / "01.json")
    with pytest.raises(StoreError, match=f"run/{name} leads out of .* remove the link"):
        prepare(folder)
    assert files_below(folder) == [name]
    assert (outside / "01.json").read_bytes() == b""


def test_a_lock_file_that_is_a_link_to_the_record_is_refused(tmp_path):
    """Taking the lock never empties another file of the folder."""
    folder = put(tmp_path, record())
    before = (folder / "run.json").read_bytes()
    (folder / runfolder.LOCK).symlink_to("run.json")
    with pytest.raises(StoreError, match=r"cannot make .* ready for a run"), runfolder.locked(folder):
        pass
    assert (folder / "run.json").read_bytes() == before
