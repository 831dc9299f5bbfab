"""The results folder: atomic writes, records that are never overwritten, and safe reading of any file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_records import put, record
from folders import files_below
from pruneboard.errors import NotFoundError, StoreError
from pruneboard.records import runfolder, store

NAMES = st.text(max_size=300)


def test_a_record_is_read_back_from_its_folder(tmp_path):
    """A record is written to the folder named after its run, read back unchanged, and found by its hash."""
    made = record("probmask", 0.995, seed=3)
    folder = put(tmp_path, made)
    leaf = f"probmask-s0.995-seed3-{made['hash'][:8]}"
    assert folder == tmp_path / "digits" / "resnet20_cifar" / "prune" / leaf
    assert store.read(folder / "run.json") == made == store.finished(folder, made["hash"])
    assert files_below(folder) == ["run.json"]


def test_the_folder_of_a_control_without_sparsity_names_none(tmp_path):
    """The folder of the dense control is `dense-seed0-<hash8>`."""
    made = record("dense", None)
    assert put(tmp_path, made).name == f"dense-seed0-{made['hash'][:8]}"


@given(dataset=NAMES, model=NAMES, method=NAMES, digits=NAMES)
@example(dataset="..", model="../../etc", method="/etc/passwd", digits="../..")
@example(dataset="failures", model="hf-hub:timm/resnet50.a1_in1k", method=".hidden", digits="")
@settings(deadline=None)
def test_no_name_escapes_the_results_folder(dataset, model, method, digits):
    """For any names, the folder has four plain components below the results, each of a valid length."""
    folder = store.run_folder(
        "results", dataset=dataset, model=model, track="prune", method=method, sparsity=0.5, seed=1, hash=digits
    )
    parts = folder.relative_to("results").parts
    assert len(parts) == 4
    assert Path(os.path.normpath(folder)) == folder
    for part in parts:
        assert 0 < len(part) < 200
        assert part.isascii()
        assert not part.startswith(".")
        assert part not in ("failures", "superseded")


def test_a_long_method_name_leaves_seed_and_hash():
    """Two seeds of a method with a very long name have different folders."""
    folders = {
        store.run_folder(
            "r", dataset="d", model="m", track="prune", method="x" * 500, sparsity=0.5, seed=s, hash="0" * 64
        )
        for s in (1, 2)
    }
    assert len(folders) == 2


def test_a_finished_record_needs_the_whole_hash(tmp_path):
    """A hash with the same first digits, a failed record, a corrupt one and a missing one are not finished."""
    made = record()
    folder = put(tmp_path, made)
    assert store.finished(folder, made["hash"][:8] + "0" * 56) is None
    failed = record(seed=1, status="diverged")
    assert store.finished(put(tmp_path, failed), failed["hash"]) is None
    (folder / "run.json").write_text("{")
    assert store.finished(folder, made["hash"]) is None
    assert store.finished(tmp_path / "nowhere", made["hash"]) is None


def test_a_record_is_never_overwritten(tmp_path):
    """A second `put` into the same folder is an error and changes nothing."""
    folder = put(tmp_path, record())
    before = (folder / "run.json").read_bytes()
    with pytest.raises(StoreError, match="never overwritten"):
        store.put(folder, record(top1=0.99))
    assert (folder / "run.json").read_bytes() == before


def test_an_invalid_record_is_not_written(tmp_path):
    """A record that violates the schema is an error before anything is written."""
    with pytest.raises(StoreError, match=r"^seed "):
        store.put(tmp_path, record() | {"seed": "0"})
    assert files_below(tmp_path) == []


def test_a_crash_before_the_rename_leaves_no_record(tmp_path, monkeypatch):
    """`run.json` appears only with its complete content, and the temporary file is removed after an error."""

    def fail(source, target):
        assert json.loads(Path(source).read_text())["schema"] == 1
        assert not Path(target).exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match=r"run\.json: No space left on device"):
        store.put(tmp_path, record())
    assert files_below(tmp_path) == []


def test_a_kill_before_the_rename_leaves_no_record_and_is_cleaned_up_by_begin(tmp_path):
    """A process killed between writing and renaming leaves a hidden file, which is not a record and is then removed."""
    script = "import os, sys; from pathlib import Path; from pruneboard.records import store\n"
    script += "os.replace = lambda *_: os._exit(9)\nstore.write_atomic(Path(sys.argv[1], 'run.json'), b'{}')"
    root = Path(store.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, cwd=root)
    assert done.returncode == 9
    (part,) = files_below(tmp_path)
    assert part.endswith(".part")
    with pytest.raises(NotFoundError):
        store.scan([tmp_path])
    runfolder.begin(tmp_path)
    assert files_below(tmp_path) == []


def test_a_write_replaces_the_whole_file(tmp_path):
    """`write_atomic` creates missing folders and replaces an existing file."""
    path = tmp_path / "a" / "b.txt"
    store.write_atomic(path, b"one")
    assert store.write_atomic(path, b"two").read_bytes() == b"two"
    assert files_below(path.parent) == ["b.txt"]


@pytest.mark.parametrize("place", ["", "new", "new/deeper"])
def test_the_check_of_a_writable_folder_leaves_nothing_behind(tmp_path, place):
    """A folder that exists, or that could be created, passes the check and is not created."""
    store.check_writable(tmp_path / place)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "file/below", "dangling", "dangling/below"])
def test_results_that_are_not_a_folder_give_a_one_line_error(tmp_path, place):
    """A file or a dangling link in the place of the folder is an error that names it."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"is not a folder; choose another --results") as caught:
        store.check_writable(tmp_path / place)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_gives_a_one_line_error(tmp_path):
    """A folder without write permission is an error."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        store.check_writable(tmp_path / "results")
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_a_folder_that_refuses_even_root_gives_a_one_line_error():
    """A folder in which the system allows no files is found by writing to it, not by its permissions."""
    with pytest.raises(StoreError, match="cannot write results to /proc/self/results: "):
        store.check_writable("/proc/self/results")
    with pytest.raises(StoreError, match="cannot write"):
        store.write_atomic(Path("/proc/self/results/x"), b"")


MALICIOUS = {
    "empty": b"",
    "truncated": b'{"schema": 1',
    "a list": b"[]",
    "not text": b"\xff\xfe",
    "NaN": b'{"schema": NaN}',
    "infinity": b'{"schema": 1e999}',
    "deep": b"[" * 100_000,
    "many digits": b'{"schema": ' + b"9" * 10_000 + b"}",
    "surrogate": json.dumps(record(method__name="\ud800" * 300)).encode(),
    "wrong types": json.dumps({key: [] for key in record()}).encode(),
    "another schema": json.dumps(record() | {"schema": 2}).encode(),
}


@pytest.mark.parametrize("content", MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_file_is_skipped_with_a_reason(tmp_path, content):
    """For any content of a `run.json`, the valid record beside it is found and the bad file is reported in one line."""
    good = put(tmp_path, record()) / "run.json"
    bad = tmp_path / "bad" / "run.json"
    bad.parent.mkdir()
    bad.write_bytes(content)
    found = store.scan([tmp_path])
    assert [path for path, _ in found.records] == [good]
    ((path, reason),) = found.problems
    assert path == bad
    assert reason
    assert "\n" not in reason


def test_a_file_that_is_too_large_or_not_regular_is_skipped(tmp_path):
    """A record of gigabytes is not read, and a pipe does not block."""
    put(tmp_path, record())
    for name in ("large", "pipe", "loop"):
        (tmp_path / name).mkdir()
    with (tmp_path / "large" / "run.json").open("wb") as file:
        file.truncate(2**33)
    os.mkfifo(tmp_path / "pipe" / "run.json")
    (tmp_path / "loop" / "run.json").symlink_to("run.json")
    found = store.scan([tmp_path])
    reasons = {path.parent.name: reason for path, reason in found.problems}
    assert len(found.records) == 1
    assert "larger than 4 MiB" in reasons["large"]
    assert "not a regular file" in reasons["pipe"]
    assert set(reasons) == {"large", "pipe", "loop"}


def test_a_scan_is_sorted_and_counts_archived_records(tmp_path):
    """Records are sorted by path; failed and superseded records are counted and not read."""
    folders = [put(tmp_path, record(seed=seed)) for seed in (2, 0, 1)]
    put(tmp_path, record(seed=0, top1=0.5), force=True)
    retried = put(tmp_path, record(seed=9, status="oom"))
    put(tmp_path, record(seed=9))
    found = store.scan([tmp_path])
    assert [path for path, _ in found.records] == sorted(f / "run.json" for f in [*folders, retried])
    assert (found.superseded, found.failures) == ({folders[1]: 1}, {retried: 1})


def test_every_file_is_found_once_however_it_is_named(tmp_path):
    """Overlapping folders, a run folder and a `run.json` that name the same record give it once."""
    folder = put(tmp_path, record())
    assert len(store.scan([tmp_path, folder, folder / "run.json", tmp_path / "digits"]).records) == 1


def test_links_to_folders_are_not_followed(tmp_path):
    """A link inside the results is ignored, even if it is a loop; a link given as the argument is read."""
    put(tmp_path / "other", record(seed=1))
    put(tmp_path / "mine", record())
    (tmp_path / "mine" / "loop").symlink_to(tmp_path)
    (tmp_path / "given").symlink_to(tmp_path / "mine")
    assert len(store.scan([tmp_path / "mine"]).records) == 1
    assert len(store.scan([tmp_path / "given"]).records) == 1


def test_nothing_to_find_is_exit_code_4(tmp_path):
    """A missing folder, an empty one, and one with unreadable files only are errors that say what to do."""
    put(tmp_path / "good", record())
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").touch()
    for paths, text in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "good", tmp_path / "empty"], "no record below"),
        ([tmp_path / "bad"], "1 skipped, the first is .*run.json: is not JSON"),
    ):
        with pytest.raises(NotFoundError, match=text) as caught:
            store.scan(paths)
        assert caught.value.exit_code == 4
    with pytest.raises(NotFoundError, match="no record at"):
        store.read(tmp_path / "nowhere" / "run.json")
