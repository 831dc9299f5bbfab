"""Symbolic links in a results folder lead nowhere: nothing is read, written or deleted outside the folder."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from fake_records import put, record
from folders import files_below
from project import ROOT
from pruneboard.errors import StoreError
from pruneboard.records import store


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_run_folder_is_never_behind_a_link(tmp_path, depth):
    """A link at any level below the results that leads out of them is refused before anything is written."""
    made = record()
    parts = store.folder_of(tmp_path, made).relative_to(tmp_path).parts
    link = tmp_path.joinpath("results", *parts[:depth])
    link.parent.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    link.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="through a symbolic link, which is not followed: remove the link"):
        put(tmp_path / "results", made)
    assert files_below(tmp_path / "outside") == []


def test_the_results_folder_itself_may_be_a_link(tmp_path):
    """The folder that the user names is followed, and so is a link that stays inside it."""
    (tmp_path / "real" / "big").mkdir(parents=True)
    (tmp_path / "given").symlink_to("real")
    (tmp_path / "real" / "digits").symlink_to("big")
    folder = put(tmp_path / "given", record())
    assert (tmp_path / "real" / "big").is_dir()
    assert store.read(folder / "run.json") == record()


def test_a_record_behind_a_link_is_not_read(tmp_path):
    """A `run.json` that is a link out of the folder is a problem in one line; its content appears nowhere."""
    put(tmp_path / "mine", record())
    outside = put(tmp_path / "outside", record(seed=1))
    (tmp_path / "mine" / "x").mkdir()
    (tmp_path / "mine" / "x" / "run.json").symlink_to(outside / "run.json")
    found = store.scan([tmp_path / "mine"])
    assert [made["seed"] for _, made in found.records] == [0]
    assert found.problems == [(tmp_path / "mine" / "x" / "run.json", store.LEADS_OUT)]


def test_archives_behind_a_link_are_not_counted(tmp_path):
    """Records in a linked `failures/` or `superseded/` belong to somebody else."""
    folder = put(tmp_path / "mine", record())
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "01.json").touch()
    for name in ("failures", "superseded"):
        (folder / name).symlink_to(tmp_path / "outside")
    found = store.scan([tmp_path / "mine"])
    assert (found.failures, found.superseded) == ({}, {})


def test_a_linked_record_does_not_count_as_the_finished_run(tmp_path):
    """A run is not taken as done because its `run.json` leads to a record elsewhere."""
    made = record()
    outside = put(tmp_path / "outside", made)
    folder = store.folder_of(tmp_path / "mine", made)
    folder.mkdir(parents=True)
    (folder / "run.json").symlink_to(outside / "run.json")
    assert store.finished(outside, made["hash"]) == made
    assert store.finished(folder, made["hash"]) is None


def test_a_write_replaces_a_link_and_not_its_target(tmp_path):
    """A file that is a link becomes a file; what it led to keeps its content."""
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to("target")
    store.write_atomic(tmp_path / "link", b"ours")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "theirs"


def stale_part(path: Path) -> Path:
    """Write `path` in a process that is killed before it renames its temporary file, and return that file."""
    script = "import os, sys; from pathlib import Path; from pruneboard.records import store\n"
    script += "os.replace = lambda *_: os._exit(9)\nstore.write_atomic(Path(sys.argv[1]), b'half')"
    assert subprocess.run([sys.executable, "-c", script, path], check=False, cwd=ROOT).returncode == 9
    (part,) = path.parent.glob(f".{path.name}.*.part")
    return part


def test_the_temporary_file_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
    """Writing the same file again removes it; writing another file does not."""
    part = stale_part(tmp_path / "page.html")
    store.write_atomic(tmp_path / "page.htm", b"other")
    assert part.exists()
    store.write_atomic(tmp_path / "page.html", b"whole")
    assert files_below(tmp_path) == ["page.htm", "page.html"]


def test_a_temporary_file_in_use_is_left_alone(tmp_path):
    """A process that is still writing holds a lock on its file."""
    part = stale_part(tmp_path / "page.html")
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.write_atomic(tmp_path / "page.html", b"whole")
        assert part.exists()
    store.write_atomic(tmp_path / "page.html", b"whole")
    assert not part.exists()


@pytest.mark.parametrize("name", [".page.html.part", ".page.html.mine.part", "page.html.part", f".x.{'0' * 32}.part"])
def test_a_foreign_part_file_is_kept(tmp_path, name):
    """Only names that pruneboard gives to temporary files of this very path are removed."""
    (tmp_path / name).write_text("theirs")
    store.write_atomic(tmp_path / "page.html", b"whole")
    assert (tmp_path / name).read_text() == "theirs"


def test_a_link_with_the_name_of_a_temporary_file_is_not_followed(tmp_path):
    """Neither the link nor its target changes."""
    (tmp_path / "target").write_text("theirs")
    (tmp_path / f".page.html.{'0' * 32}.part").symlink_to("target")
    store.write_atomic(tmp_path / "page.html", b"whole")
    assert (tmp_path / "target").read_text() == "theirs"
