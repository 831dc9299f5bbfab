"""Executing a merge: nothing is written twice, and a killed merge can be completed."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from fake_records import put, record
from merge_cases import archive, counts, document, merge, places, put_whole_run, stamps, tree
from project import ROOT
from pruneboard.errors import StoreError
from pruneboard.records import merging, store


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
