"""Records of unknown origin: 5,000 mutations of valid records crash nothing, and none is lost without a message."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random

from click.testing import CliRunner

from fake_records import put, record
from pruneboard.cli import compare
from pruneboard.leaderboard import folders
from pruneboard.records import schema as records
from pruneboard.records.store import LARGEST_FILE
from pruneboard.report import files

COUNT = 5_000
HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "/dev/zero",
    "=1+1",
    "\x1b[31m",
    "\u202e",
    "\x00",
    "a" * 999,
]
NUMBERS = [-1, 0, 10**400, 1e308, -1e-320, 0.5, float("nan"), float("inf")]
VALUES = [None, True, [], {}, "", [[]], {"a": {}}, *NUMBERS, *HOSTILE]


def places(value, at=()):
    """The paths of all values in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(made, draw):
    """A record with one to three values replaced, dropped or renamed."""
    made = json.loads(json.dumps(made))
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(list(places(made)))
        parent = made
        for key in path[:-1]:
            parent = parent[key]
        if draw.random() < 0.2:
            del parent[path[-1]]
        elif isinstance(parent, dict) and draw.random() < 0.2:
            parent[draw.choice(HOSTILE)] = parent.pop(path[-1])
        else:
            parent[path[-1]] = copy.deepcopy(draw.choice(VALUES))
    if draw.random() < 0.5:  # or else every change would be refused for its fingerprint
        board = made.get("board")
        if isinstance(board, dict) and "fingerprint" in board:
            with contextlib.suppress(records.RecordError):  # a value that JSON cannot express has no fingerprint
                board["fingerprint"] = records.fingerprint(board)
    return json.dumps(made).encode()


def nested(made, draw):
    """A record with a deeply nested value."""
    deep = draw.choice(["[", '{"a":']) * draw.choice([40, 900, 100_000])
    return json.dumps(made)[:-1].encode() + b', "deep": ' + deep.encode()


def encoded(made, draw):
    """A record in another encoding, or with bytes that are invalid in it."""
    text = json.dumps(made | {"note": "é\ud800"}, ensure_ascii=draw.random() < 0.5)
    return text.encode(draw.choice(["utf-16", "utf-8-sig", "utf-32"]), "surrogatepass")


def damaged(made, draw):
    """A record that is truncated, has random bytes, or occurs twice in one file."""
    data = bytearray(json.dumps(made).encode())
    how = draw.randrange(3)
    if how == 0:
        return bytes(data[: draw.randrange(len(data))])
    if how == 1:
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data)
    return bytes(data + data)


def contents(folder):
    """The contents of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mutated_records_are_read_or_skipped_with_a_message(tmp_path):
    """Each of 5,000 mutated files is on a board or skipped by name; all formats are written, equally in two runs."""
    draw = random.Random(0)
    good = [record("dense", None), record("probmask", 0.9, top1=0.8), record("magnitude", 0.9, status="failed")]
    put(tmp_path, good[0])
    for number in range(COUNT):
        mutate = draw.choices([changed, damaged, encoded, nested], [16, 2, 1, 1])[0]
        folder = tmp_path / f"{number % 50}" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(mutate(draw.choice(good), draw))
    done = CliRunner().invoke(compare.command, [str(tmp_path)], catch_exceptions=False, standalone_mode=False)
    assert not done.return_value
    whole = folders.load([tmp_path])
    assert whole.total + len(whole.problems) == COUNT + 1
    assert whole.total > 100  # or else almost all mutations would be refused as unreadable
    written = contents(tmp_path / "leaderboard")
    assert done.stderr.count("skipped ") == len(whole.problems)
    formats = [name for name in files.FORMATS if name not in ("svg", "png")]
    files.write_leaderboard(whole, tmp_path / "leaderboard", formats)
    assert contents(tmp_path / "leaderboard") == written


def test_odd_files_are_skipped_by_name(tmp_path):
    """Circular and dangling links, a device, a pipe, a folder and an oversized file are skipped without waiting."""
    put(tmp_path, record())
    odd = {name: tmp_path / name / "run.json" for name in ("circle", "device", "nowhere", "pipe", "folder", "large")}
    for path in odd.values():
        path.parent.mkdir()
    odd["circle"].symlink_to(odd["circle"])
    odd["device"].symlink_to("/dev/zero")
    odd["nowhere"].symlink_to(tmp_path / "gone")
    os.mkfifo(odd["pipe"])
    odd["folder"].mkdir()
    odd["large"].write_bytes(b" " * (LARGEST_FILE + 1))
    whole = folders.load([tmp_path])
    assert whole.total == 1
    assert {path.split("/")[1] for path, _ in whole.problems} == odd.keys() - {"folder"}
