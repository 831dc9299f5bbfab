"""Files of an export appear together or not at all, and replace nothing without `force`."""

from __future__ import annotations

import pytest

from pruneboard.artifacts.exporting.staging import staged
from pruneboard.errors import StoreError


def test_a_failed_export_leaves_nothing(tmp_path):
    """If the block fails halfway, neither the folder nor a file is created."""

    def fail():
        with staged(tmp_path / "new", force=True) as staging:
            (staging / "half").write_text("half")
            raise OSError("no space left")

    with pytest.raises(StoreError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_changes_nothing(tmp_path):
    """If the block fails, an existing folder keeps its files and gets no new one, even with `force`."""
    (tmp_path / "old").write_text("old")

    def fail():
        with staged(tmp_path, force=True) as staging:
            (staging / "old").write_text("new")
            raise OSError("no space left")

    with pytest.raises(StoreError, match="no space left"):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old"}


def publish(folder, contents, force=False):
    """Stage files of these contents."""
    with staged(folder, force=force) as staging:
        for name, content in contents.items():
            (staging / name).write_text(content)


def test_one_file_with_other_content_blocks_all(tmp_path):
    """If the content of one existing file differs, no file is written; with `force`, all are."""
    publish(tmp_path, {"a": "1"})
    with pytest.raises(StoreError, match="has a with other content"):
        publish(tmp_path, {"a": "2", "b": "3"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1"}
    publish(tmp_path, {"a": "2", "b": "3"}, force=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "2", "b": "3"}


def test_equal_content_is_left_alone(tmp_path):
    """A file whose content is already there keeps its inode, so that a link to it stays valid."""
    publish(tmp_path, {"a": "1"})
    before = (tmp_path / "a").stat()
    publish(tmp_path, {"a": "1", "b": "2"})
    assert (tmp_path / "a").stat() == before
    assert (tmp_path / "b").read_text() == "2"


def test_a_link_to_equal_content_is_replaced_only_by_force(tmp_path):
    """A linked file is not read as if it were part of the folder, and its target never changes."""
    (tmp_path / "elsewhere").write_text("1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to("../elsewhere")
    with pytest.raises(StoreError, match="has a with other content"):
        publish(tmp_path / "out", {"a": "1"})
    publish(tmp_path / "out", {"a": "2"}, force=True)
    assert not (tmp_path / "out" / "a").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "1"
