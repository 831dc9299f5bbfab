"""`pruneboard verify`: output, exit codes and `verified.json`."""

from __future__ import annotations

import json
import re

import pytest

import verify_cases as cases
from pruneboard.cli import invoke
from pruneboard.records import store, verdicts
from verify_cases import copied, edit


@pytest.fixture
def one(tiny_run, tmp_path):
    """A copy of a tiny run."""
    return copied(tiny_run(), tmp_path / "run")


def test_there_is_a_line_for_each_run_and_failed_check(tiny_run, tmp_path, capsys):
    """Each run has a line, with failed checks below it; the exit code is 3 if a run is disputed, and 0 if none is."""
    for name, without in (("a", ()), ("b", (store.WEIGHTS, store.MASK))):
        copied(tiny_run(), tmp_path / name, *without)
    assert invoke(["verify", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["certified", "record-only", "2"]
    edit(tmp_path / "b", method__options__prune_at=0.25)
    assert invoke(["verify", str(tmp_path), "--no-data"]) == 3
    out, err = capsys.readouterr()
    assert "    record.hash: " in out
    assert err.startswith("error: 1 of 2 runs disputed")


def test_json_is_one_document(one, capsys):
    """The document has the runs with their checks and notes, and the counts of the verdicts."""
    edit(one, seed=1)
    assert invoke(["verify", str(one), "--json", "--no-data"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"certified": 0, "spot-checked": 0, "record-only": 0, "disputed": 1}
    (run,) = document["runs"]
    assert run["checks"]["record.hash"] == "failed"
    assert "fields hash to" in run["notes"]["record.hash"]


def test_a_broken_record_is_disputed_and_a_missing_one_is_an_error(tmp_path, capsys):
    """An unreadable record gives a verdict; a folder without a record, or a command without a path, is an error."""
    assert invoke(["verify", str(tmp_path)]) == 4
    assert invoke(["verify", str(tmp_path / "nowhere")]) == 4
    assert invoke(["verify"]) == 2
    (tmp_path / store.RUN).write_bytes(b"{")
    assert invoke(["verify", str(tmp_path)]) == 3
    assert "record.schema: is not JSON" in capsys.readouterr().out


def test_control_characters_of_a_record_are_removed(one, capsys):
    """Names from a record are printed without control characters."""
    record = cases.record_of(one)
    record["sparsity"]["layers"][0]["name"] = "\x1b[31m<script>"
    (one / store.RUN).write_text(json.dumps(record))
    assert invoke(["verify", str(one), "--no-data"]) == 3
    out = capsys.readouterr().out
    assert "<script>" in out
    assert "\x1b" not in out


def test_verified_json_is_deterministic(tiny_run, tmp_path):
    """Equal input gives equal bytes, and the file is not input of the next run."""
    copied(tiny_run(), tmp_path / "run", store.WEIGHTS)
    path = tmp_path / "leaderboard" / verdicts.FILE
    assert invoke(["verify", str(tmp_path)]) == 0
    first = path.read_bytes()
    assert invoke(["verify", str(tmp_path)]) == 0
    assert path.read_bytes() == first
    assert verdicts.read(path) == {verdicts.file_sha256(tmp_path / "run" / store.RUN): "spot-checked"}


def test_badges_are_for_the_user_who_verified(tiny_run, tmp_path, monkeypatch, capsys):
    """The page of this user shows the verdict; for another user, and without a home folder, it is only claimed."""
    copied(tiny_run(), tmp_path / "r" / "run")
    page = tmp_path / "r" / "leaderboard" / "leaderboard.html"

    def badge():
        assert invoke(["compare", str(tmp_path / "r"), "--format", "html"]) == 0
        (found,) = set(re.findall(r'<td><span class="badge ([^"]+)"', page.read_text()))
        return found

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    assert badge() == "unverified"
    assert invoke(["verify", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().err == ""
    assert badge() == "certified"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    assert badge() == "claimed"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "")
    assert invoke(["verify", str(tmp_path / "r")]) == 0
    assert "you have no home folder, so `compare` shows them as claimed" in capsys.readouterr().err
    assert badge() == "claimed"
