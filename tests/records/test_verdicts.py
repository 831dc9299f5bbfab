"""`verified.json`: round trips, and errors of one line for any other file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneboard.errors import StoreError
from pruneboard.records import store, verdicts
from pruneboard.records.verdicts import VERDICTS, RunCheck, RunVerification

SHA = "ab" * 32
FINDINGS = st.lists(
    st.builds(
        RunVerification,
        path=st.just(Path("run.json")),
        sha256=st.sampled_from([None, SHA, "0" * 64, "f" * 64]),
        verdict=st.sampled_from(VERDICTS),
        checks=st.just((RunCheck("record.hash", "failed", "a\udcff<b>"),)),
    ),
    max_size=6,
)


@given(FINDINGS)
def test_copies_of_a_record_get_one_verdict(findings):
    """A disputed copy counts, otherwise the best; the order does not matter, and results without hash are skipped."""
    text = verdicts.dumps(findings)
    assert text == verdicts.dumps(findings[::-1])
    ranked = ["disputed", "certified", "spot-checked", "record-only"]
    expected = {}
    for finding in findings:
        if finding.sha256 is not None:
            others = [other.verdict for other in findings if other.sha256 == finding.sha256]
            expected[finding.sha256] = min(others, key=ranked.index)
    assert {run["sha256"]: run["verdict"] for run in json.loads(text)["runs"]} == expected


def test_a_written_file_is_read_back(tmp_path):
    """A written verdict is read from the file; a missing file gives no verdicts."""
    path = verdicts.write([RunVerification(Path("x"), SHA, "certified", ())], tmp_path / "leaderboard")
    assert path == tmp_path / "leaderboard" / "verified.json"
    assert verdicts.read(path) == {SHA: "certified"}
    assert verdicts.read(tmp_path / "nowhere.json") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"schema": 2, "runs": []}',
        b'{"schema": 1, "runs": {}}',
        b'{"schema": 1, "runs": [7]}',
        b'{"schema": 1, "runs": [{"sha256": "ab", "verdict": "certified"}]}',
        b'{"schema": 1, "runs": [{"sha256": "%s", "verdict": "<script>"}]}' % SHA.encode(),
        b'{"schema": 1, "runs": [{"sha256": "%s", "verdict": ["certified"]}]}' % SHA.encode(),
        b'{"schema": 1, "runs": [{"sha256": ["%s"], "verdict": "certified"}]}' % SHA.encode(),
    ],
)
def test_another_file_is_an_error(tmp_path, content):
    """Any other structure, encoding or depth is an error of one line that names the file."""
    path = tmp_path / "verified.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"verified\.json is not") as caught:
        verdicts.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_or_not_regular_is_an_error(tmp_path, monkeypatch):
    """The size limit applies, and a folder in the place of the file is an error."""
    path = verdicts.write([RunVerification(Path("x"), SHA, "certified", ())], tmp_path)
    monkeypatch.setattr(verdicts, "LARGEST_FILE", 10)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        verdicts.read(path)
    with pytest.raises(StoreError, match="not a regular file"):
        verdicts.read(tmp_path)


def test_a_verdict_applies_to_the_verified_bytes_only(tmp_path):
    """One changed byte of `run.json` gives another hash."""
    path = tmp_path / store.RUN
    path.write_bytes(b"{}")
    before = verdicts.file_sha256(path)
    path.write_bytes(b"{} ")
    assert verdicts.file_sha256(path) != before


# Seals


def one_run(tmp_path, verdict="certified"):
    """Write a `verified.json` with one run, and return its path."""
    return verdicts.write([RunVerification(Path("x"), SHA, verdict, ())], tmp_path / "leaderboard")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The folder in which this user's key is created."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "pruneboard"


def test_own_verdicts_are_recognized_by_their_seal(tmp_path, state):
    """The key is created once, and only its user can read it; without it, the same file is a claim."""
    path = one_run(tmp_path)
    key = state / verdicts.KEY
    assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)
    before = path.read_bytes()
    assert verdicts.read_own(path) == {SHA: "certified"}
    assert one_run(tmp_path).read_bytes() == before
    key.rename(state / "elsewhere")
    assert verdicts.read_own(path) == {SHA: verdicts.CLAIMED}
    assert not key.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "spot-checked"},
        {"sha256": "cd" * 32},
        {"seal": "0" * 64},
        {"seal": None},
        {"seal": ["certified"]},
        {"seal": "\ud800é"},
    ],
)
@pytest.mark.usefixtures("state")
def test_an_edited_entry_is_a_claim(tmp_path, change):
    """A seal is valid for one record and one verdict only."""
    path = one_run(tmp_path)
    document = json.loads(path.read_text())
    document["runs"][0] |= change
    path.write_text(json.dumps(document))
    assert list(verdicts.read_own(path).values()) == [verdicts.CLAIMED]


@pytest.mark.parametrize("damage", ["short", "folder", "file in the way"])
def test_without_a_usable_key_everything_is_a_claim(tmp_path, state, damage):
    """Verdicts are written without seals, and nothing fails."""
    if damage == "file in the way":
        state.parent.touch()
    elif damage == "folder":
        (state / verdicts.KEY).mkdir(parents=True)
    else:
        state.mkdir(parents=True)
        (state / verdicts.KEY).write_bytes(b"short")
    path = one_run(tmp_path)
    assert "seal" not in path.read_text()
    assert verdicts.read_own(path) == {SHA: verdicts.CLAIMED}


def test_the_key_lies_only_below_absolute_paths(tmp_path, monkeypatch):
    """A relative state or home folder could be in a folder from somebody else, and there may be no home at all."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert verdicts.key_path() == tmp_path / ".local" / "state" / "pruneboard" / verdicts.KEY
    monkeypatch.setenv("HOME", ".")
    assert verdicts.key_path() is None
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert verdicts.key_path() is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert verdicts.key_path() == tmp_path / "pruneboard" / verdicts.KEY
