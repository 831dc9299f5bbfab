"""`pruneboard merge`: what it prints for people and for programs; tests/records/merging tests the merge itself."""

from __future__ import annotations

import json

import pytest

from fake_records import put, record
from pruneboard.cli import invoke


@pytest.fixture
def source(tmp_path):
    """A results folder with two runs, one of them failed."""
    put(tmp_path / "source", record("dense", None))
    put(tmp_path / "source", record("magnitude", 0.9, status="failed"))
    return tmp_path / "source"


def files(folder):
    """Relative paths of the files below a folder."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_prints_the_plan_and_writes_nothing(source, tmp_path, capfd):
    """`--dry-run` prints one line per run and the counts of the merge, but creates no folder."""
    into = tmp_path / "all"
    assert invoke(["merge", str(source), "--into", str(into), "--dry-run"]) == 0
    *lines, counts = capfd.readouterr().out.splitlines()
    assert counts == "2 copied, 0 upgraded, 0 already there (dry run: nothing was written)"
    assert [line.split()[0] for line in lines] == ["copied", "copied"]
    assert not into.exists()


def test_merging_twice_changes_nothing(source, tmp_path, capfd):
    """The first merge copies both runs; the second finds them, and its JSON document lists them."""
    into = tmp_path / "all"
    assert invoke(["merge", str(source), "--into", str(into)]) == 0
    assert capfd.readouterr().out == "2 copied, 0 upgraded, 0 already there\n"
    before = files(into)
    assert {path.name for path in before} >= {"run.json"}
    assert invoke(["merge", str(source), "--into", str(into), "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert len(summary["already_there"]) == 2
    assert not summary["copied"]
    assert files(into) == before


def test_a_conflict_exits_with_2_and_copies_nothing(source, tmp_path, capfd):
    """A conflict is printed with its path and reason, followed by one line with their number."""
    put(tmp_path / "other", record("dense", None, top1=0.5, hash=record("dense", None)["hash"]))
    into = tmp_path / "all"
    assert invoke(["merge", str(source), str(tmp_path / "other"), "--into", str(into)]) == 2
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert out == ""
    assert first.startswith("conflict: ")
    assert last == f"error: 1 conflict: nothing was copied into {into}"
    assert not into.exists()


def test_a_destination_is_required(source, capfd):
    """Without `--into`, the command is refused."""
    assert invoke(["merge", str(source)]) == 2
    assert "--into" in capfd.readouterr().err
