"""The plan of a merge: where runs are copied to, and what is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fake_records import put, record
from merge_cases import merge, places, stamps, tree
from pruneboard.records import merging, store
from pruneboard.records.schema import dumps


def test_a_run_is_copied_to_the_folder_that_its_record_gives(tmp_path):
    """Neither the folders of the source nor path separators in a name decide where a run is copied to."""
    a, _, dest = places(tmp_path)
    made = record(model__name="../../escape")
    moved = a / "deep" / "er" / "any-name"
    store.write_atomic(moved / "run.json", dumps(made).encode())
    assert merge(moved.parent, "--into", dest) == 0
    (path,) = dest.rglob("run.json")
    assert path.relative_to(dest).parts[:3] == ("digits", "escape", "prune")
    assert store.read(path) == made


def test_another_file_in_the_place_of_the_record_is_a_conflict(tmp_path, capsys):
    """A `run.json` that is not a record, or belongs to another run with the same eight digits, is not overwritten."""
    a, _, dest = places(tmp_path)
    made = record()
    folder = put(a, made)
    path = dest / folder.relative_to(a) / "run.json"
    store.write_atomic(path, b"{")
    assert merge(a, "--into", dest) == 2
    assert f"{path}: not a readable record (is not JSON" in capsys.readouterr().err
    store.write_atomic(path, dumps(made | {"hash": made["hash"][:8] + "0" * 56}).encode())
    before = tree(dest)
    assert merge(a, "--into", dest) == 2
    assert "two runs have this folder" in capsys.readouterr().err
    assert tree(dest) == before


@pytest.mark.parametrize(
    ("source", "into", "message"),
    [
        ("r", "r", "is the destination itself"),
        ("r", "s/../r", "is the destination itself"),
        ("r", "r/digits", "r/digits is inside r"),
        ("r/digits", "r", "r/digits is inside r"),
        ("r", "link/new", "link/new is inside r"),
    ],
)
def test_folders_within_each_other_are_refused(tmp_path, monkeypatch, capsys, source, into, message):
    """A source must not be the destination, contain it, or be inside it, under whatever name."""
    monkeypatch.chdir(tmp_path)
    put(Path("r"), record())
    Path("s").mkdir()
    Path("link").symlink_to("r")
    before = tree(tmp_path)
    assert merge(source, "--into", into) == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_two_runs_of_one_folder_are_a_conflict(tmp_path):
    """Runs of two sources whose hashes agree in the first eight digits cannot share a destination."""
    a, b, dest = places(tmp_path)
    made = record()
    put(a, made)
    put(b, made | {"hash": made["hash"][:8] + "0" * 56})
    (conflict,) = merging.plan_merge([a, b], dest).conflicts
    assert conflict.path == store.folder_of(dest, made) / "run.json"
    assert conflict.reason.startswith("two runs have this folder")


@pytest.mark.parametrize("below", [".", "..", "../../..", "failures", "log.txt", "checkpoints"])
def test_a_destination_behind_a_link_is_a_conflict(tmp_path, capsys, below):
    """A link in the destination that leads out of it, or out of a run's folder in it, stops the merge."""
    a, _, dest = places(tmp_path)
    made = record()
    put(a, made)
    link = store.folder_of(dest, made) / below
    link = Path(os.path.normpath(link))
    link.parent.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    link.symlink_to(tmp_path / "outside")
    before = tree(tmp_path)
    assert merge(a, "--into", dest) == 2
    assert "through a symbolic link, which is not followed" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_plan_writes_nothing_and_lists_every_run(tmp_path):
    """Each run of the sources is in exactly one of the three lists, by its path below the destination."""
    a, _, dest = places(tmp_path)
    folders = {}
    for seed, (source, here) in enumerate((("done", None), ("done", "failed"), ("failed", "done"))):
        folders[seed] = put(a, record(seed=seed, status=source)).relative_to(a).as_posix()
        if here:
            put(dest, record(seed=seed, status=here))
    before = stamps(tmp_path)
    summary = merging.plan_merge([a], dest).summary()
    assert [summary[name] for name in ("copied", "upgraded", "already_there")] == [[folders[i]] for i in range(3)]
    assert stamps(tmp_path) == before
