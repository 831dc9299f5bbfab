"""Tests reading folders into leaderboards, with verdicts and replaced records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fake_records import put, record
from pruneboard.errors import NotFoundError, StoreError
from pruneboard.leaderboard import folders
from pruneboard.records import verdicts
from pruneboard.records.verdicts import RunVerification


def test_compare_reads_folders_and_counts_replaced_records(tmp_path):
    """The Python function returns the boards of all folders and counts records that --force replaced."""
    put(tmp_path / "one", record(top1=0.5))
    put(tmp_path / "one", record(top1=0.9), force=True)
    put(tmp_path / "two", record(seed=1, top1=0.9))
    (board,) = folders.compare([tmp_path / "one", str(tmp_path / "two")])
    (row,) = board.rows
    assert (row.n, row.top1.mean, row.superseded) == (2, 0.9, 1)
    with pytest.raises(NotFoundError):
        folders.compare([tmp_path / "three"])


def verified(out, paths, *given):
    """Write a `verified.json` of this user with one verdict for each path."""
    findings = [RunVerification(p, verdicts.file_sha256(p), v, ()) for p, v in zip(paths, given, strict=True)]
    return verdicts.write(findings, out)


def test_disputed_runs_are_failures(tmp_path):
    """A verdict is valid for an unchanged file only, and a disputed run is not part of any mean."""
    made = [record("probmask", 0.5, seed=s, top1=0.8 + s / 10) for s in (0, 1)]
    paths = [put(tmp_path, one) / "run.json" for one in made]
    out = tmp_path / "leaderboard"
    verified(out, paths, "disputed", "certified")
    found = folders.load([tmp_path], out=out)
    (row,) = found.boards[0].rows
    assert row.by_seed == {1: 0.9}
    assert [(failure.seed, failure.status) for failure in row.failures] == [(0, "disputed")]
    assert sorted(run.verdict for run in found.runs) == ["certified", "disputed"]
    paths[0].write_bytes(paths[0].read_bytes() + b"\n")
    found = folders.load([tmp_path], out=out)
    assert found.boards[0].rows[0].n == 2
    assert found.verdicts == {made[1]["hash"]: "certified"}


def test_a_verdict_from_elsewhere_is_only_a_claim(tmp_path, monkeypatch):
    """What another user's file says, good or bad, is shown as claimed and changes no row."""
    made = [record("probmask", 0.5, seed=s, top1=0.8 + s / 10) for s in (0, 1)]
    out = tmp_path / "leaderboard"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    path = verified(out, [put(tmp_path, one) / "run.json" for one in made], "disputed", "certified")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    unsealed = json.loads(path.read_text())
    for run in unsealed["runs"]:
        del run["seal"]
    for text in (path.read_text(), json.dumps(unsealed)):
        path.write_text(text)
        found = folders.load([tmp_path], out=out)
        assert set(found.verdicts.values()) == {run.verdict for run in found.runs} == {"claimed"}
        assert found.boards[0].rows[0].n == 2


def test_a_link_to_verdicts_elsewhere_is_not_read(tmp_path):
    """`verified.json` may not lead out of the output folder."""
    path = verified(tmp_path / "other", [put(tmp_path / "r", record()) / "run.json"], "certified")
    (tmp_path / "r" / "leaderboard").mkdir()
    (tmp_path / "r" / "leaderboard" / "verified.json").symlink_to(path)
    with pytest.raises(StoreError, match="symbolic link"):
        folders.load([tmp_path / "r"], out=tmp_path / "r" / "leaderboard")


def test_default_output_is_in_the_first_folder(tmp_path):
    """For a single `run.json`, it is next to this file."""
    path = put(tmp_path, record()) / "run.json"
    assert folders.default_output([tmp_path, Path("other")]) == tmp_path / "leaderboard"
    assert folders.default_output([path]) == path.parent / "leaderboard"


def test_paths_start_at_the_given_folder(tmp_path):
    """The page does not reveal the folders above the results, neither for runs nor for skipped files."""
    results = tmp_path / "private" / "results"
    put(results, record())
    (results / "broken").mkdir()
    (results / "broken" / "run.json").write_text("{")
    found = folders.load([results])
    assert found.runs[0].path.startswith("results/digits/")
    assert [path for path, _ in found.problems] == ["results/broken/run.json"]


def test_the_newest_runs_are_listed_first(tmp_path, monkeypatch):
    """Runs are sorted by the time at which they ended, and only so many are listed; all of them are counted."""
    for seed, ended in enumerate(("2025-01-02", "2025-01-03", "2025-01-01")):
        put(tmp_path, record(seed=seed, lifecycle__ended=ended))
    monkeypatch.setattr(folders, "SHOWN_RUNS", 2)
    found = folders.load([tmp_path])
    assert [run.record["seed"] for run in found.runs] == [1, 0]
    assert found.total == 3


def test_records_in_the_output_folder_are_ignored(tmp_path):
    """A results folder can contain its leaderboard."""
    put(tmp_path, record(seed=0))
    put(tmp_path / "leaderboard", record(seed=1))
    assert folders.load([tmp_path], out=tmp_path / "leaderboard").total == 1
    assert folders.load([tmp_path]).total == 2
