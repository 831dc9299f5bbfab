"""Executing a merge: nothing is written twice, and a killed merge can be completed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from fake_records import put, record
from merge_cases import archive, counts, document, merge, places, put_run, put_whole_run, stamps, tree
from project import ROOT
from pruneboard.errors import StoreError
from pruneboard.records import merging, store
from pruneboard.records.merging import steps


def test_a_second_merge_changes_nothing(tmp_path, capsys):
    """If everything has been merged already, not even a modification time changes."""
    a, _, dest = places(tmp_path)
    archive(put_whole_run(a), "failures", 1, record(status="oom"))
    put_whole_run(a, seed=1, status="failed")
    assert merge(a, "--into", dest) == 0
    before = stamps(dest)
    assert counts(document(capsys, a, "--into", dest)[1]) == {"already_there": 2}
    assert stamps(dest) == before


def test_a_destination_that_has_changed_is_not_written(tmp_path):
    """A plan is valid only for the record that was in the folder when it was made."""
    a, _, dest = places(tmp_path)
    put(a, record())
    made = merging.plan_merge([a], dest)
    put(dest, record(status="failed"))
    before = tree(dest)
    with pytest.raises(StoreError, match="changed during the merge"):
        merging.execute(made)
    assert tree(dest) == before


@pytest.mark.parametrize("writes", [1, 3, 4, 6])
def test_a_killed_merge_leaves_complete_records_and_can_be_completed(tmp_path, writes):
    """Killed at any file, every record has its masks; the same command then gives the result of an unkilled merge."""
    a, b, dest = places(tmp_path)
    for seed in (0, 1):
        archive(put_whole_run(a, seed=seed), "failures", 1, record(seed=seed, status="oom"))
        put(dest, record(seed=seed, status="failed"))
    shutil.copytree(dest, b)
    assert merge(a, "--into", b) == 0
    script = f"""
import os, sys
from pruneboard.cli import invoke
real, left = os.replace, [{writes}]
def replace(*paths):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    real(*paths)
os.replace = replace
invoke(["merge", *sys.argv[1:]])
"""
    done = subprocess.run([sys.executable, "-c", script, a, "--into", dest], check=False, cwd=ROOT)
    assert done.returncode == 9
    for path in dest.rglob("run.json"):
        assert store.status(path) == "failed" or (path.parent / "mask.npz").exists()
    assert merge(a, "--into", dest) == 0
    assert {name: data for name, data in tree(dest).items() if not name.endswith((".part", ".lock"))} == tree(b)


def test_a_plan_with_conflicts_is_not_executed(tmp_path):
    """The plan must be free of conflicts before anything is written."""
    a, b, dest = places(tmp_path)
    put(a, record())
    put(b, record(top1=0.5))
    plan = merging.plan_merge([a, b], dest)
    with pytest.raises(StoreError, match="1 conflicts: nothing is copied"):
        merging.execute(plan)
    assert not dest.exists()


def test_the_record_is_written_last(tmp_path, monkeypatch):
    """Archived records come first and `run.json` last, so that a record is never without its files."""
    a, _, dest = places(tmp_path)
    archive(put_whole_run(a), "failures", 1, record(status="oom"))
    written = []
    replace = store.replace
    monkeypatch.setattr(store, "replace", lambda path, write: (written.append(path.name), replace(path, write)))
    merging.execute(merging.plan_merge([a], dest))
    assert (written[0], written[-1]) == ("01.json", "run.json")
    assert sorted(written[1:-1]) == ["log.txt", "mask.npz", "metrics.jsonl", "model.safetensors"]


def test_large_text_files_are_cut_after_a_line(tmp_path, capsys, monkeypatch):
    """The first complete lines are copied and the file is named; a second merge leaves it as it is."""
    a, _, dest = places(tmp_path)
    monkeypatch.setitem(steps.MAX_TEXT, "log.txt", 100)
    put_run(a, record(), log__txt=b"a line of 20 bytes.\n" * 4 + b"a longer line " * 1000)
    code, found = document(capsys, a, "--into", dest)
    (log,) = dest.rglob("log.txt")
    assert (code, log.read_bytes()) == (0, b"a line of 20 bytes.\n" * 4)
    assert [(item["path"].endswith("log.txt"), item["reason"]) for item in found["cut_files"]] == [
        (True, "has 14,080 bytes; only the first 100 are copied")
    ]
    assert merge(a, "--into", tmp_path / "other") == 0
    printed = capsys.readouterr()
    assert re.search(r"^cut .*log\.txt: has 14,080 bytes; only the first 100 are copied$", printed.err, re.MULTILINE)
    assert "1 files cut" in printed.out
    before = stamps(dest)
    assert counts(document(capsys, a, "--into", dest)[1]) == {"already_there": 1}
    assert stamps(dest) == before


def test_a_line_beyond_the_limit_is_cut_within(tmp_path, monkeypatch):
    """A file of one huge line does not escape the limit."""
    a, _, dest = places(tmp_path)
    monkeypatch.setitem(steps.MAX_TEXT, "metrics.jsonl", 100)
    put_run(a, record(), metrics__jsonl=b"x" * 5000)
    assert merge(a, "--into", dest) == 0
    assert [path.stat().st_size for path in dest.rglob("metrics.jsonl")] == [100]


def test_masks_and_weights_larger_than_their_network_are_not_copied(tmp_path, capsys):
    """The record limits both files; a larger one of another finished copy does not hide a good one."""
    a, b, dest = places(tmp_path)
    good = put_whole_run(a)
    bad = put_whole_run(b, lifecycle__ended="2999-01-01T00:00:00Z")
    for name in ("mask.npz", "model.safetensors"):
        with (bad / name).open("wb") as file:
            file.truncate(2**27)  # a hole, which needs no space
    code, found = document(capsys, a, b, "--into", dest)
    assert code == 0
    assert [item["reason"].split(";")[0] for item in found["skipped_files"]] == ["has 134,217,728 bytes"] * 2
    (run,) = (path.parent for path in dest.rglob("run.json"))
    for name in ("mask.npz", "model.safetensors"):
        assert (run / name).read_bytes() == (good / name).read_bytes()


def test_a_file_that_grows_during_a_merge_is_not_copied_in_part(tmp_path):
    """A mask that has more bytes than at planning time ends the merge with one line, and no part of it remains."""
    a, _, dest = places(tmp_path)
    folder = put_whole_run(a)
    plan = merging.plan_merge([a], dest)
    with (folder / "mask.npz").open("ab") as file:
        file.truncate(2**25)
    with pytest.raises(StoreError, match=r"mask\.npz changed during the merge: repeat the command"):
        merging.execute(plan)
    assert not list(dest.rglob("*mask.npz*"))
    assert not list(dest.rglob("run.json"))
