"""Reading one folder of a tree: hidden entries, links, and descriptions."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from data_cases import LARGE, SMALL, error_line, open_tree, write_tree
from pruneboard import data
from pruneboard.data.entries import ending, most_frequent, read_entries


def hide(root):
    """Put hidden files and folders of every kind at every level of a tree."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / "._00.png").write_bytes(b"broken")
        (folder / ".DS_Store").write_bytes(b"")
        (folder / ".#lock.png").symlink_to("gone")
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "00.png").write_bytes(b"broken")


@pytest.mark.parametrize("side", [SMALL, LARGE])
@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_hidden_files_and_folders_change_nothing(tmp_path, side, name):
    """With hidden entries at every level, a tree has the same images, classes and hashes as without."""
    root = write_tree(tmp_path / "tree", side, test="val")
    before = open_tree(root, name)
    hide(root)
    after = open_tree(root, name)
    assert (after.sha256, after.split_sha256, after.classes) == (before.sha256, before.split_sha256, before.classes)
    assert data.first_image_side(str(root)) == side


@pytest.mark.parametrize(
    "place", ["train/cat/05b.png", "test/dog/a.png", "train/fox", "test/fox", "train/cat/note.txt"]
)
@pytest.mark.parametrize("target", ["gone", "loop"])
def test_a_dangling_link_is_refused(small, place, target):
    """A link that leads nowhere, or to itself, is named with its target: its image or class would be missing."""
    link = small / place
    link.symlink_to(target if target == "gone" else link.name)
    text = error_line(lambda: open_tree(small))
    assert text.startswith(f"{link} is a link to {link.readlink()}, which cannot be followed")
    assert text.endswith("or delete it")


def test_of_several_dangling_links_the_first_is_named(small):
    """Links are reported in the order of their names."""
    for name in ("b.png", "a.png", "c.png"):
        (small / "test" / "dog" / name).symlink_to("gone")
    assert str(small / "test" / "dog" / "a.png") in error_line(lambda: open_tree(small))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_dangling_link_in_place_of_a_split_is_refused(small, part):
    """A dangling `test` is not replaced by `val`, and a dangling `train` is not reported as missing."""
    write_tree(small, SMALL, test="val", classes=("x",))
    (small / part).rename(small / "elsewhere")
    (small / part).symlink_to("gone")
    assert error_line(lambda: open_tree(small)).startswith(f"{small / part} is a link to gone")


def test_links_to_files_and_folders_are_followed(small):
    """A tree of links to classes and images is the same data."""
    before = open_tree(small)
    (small / "train" / "cat").rename(small / "moved")
    (small / "train" / "cat").symlink_to(small / "moved")
    image = small / "test" / "dog" / "00.png"
    image.rename(small / "moved.png")
    image.symlink_to(small / "moved.png")
    assert open_tree(small).sha256 == before.sha256


def test_a_pipe_is_refused(small):
    """Something that is neither a file nor a folder is named; reading it would block."""
    os.mkfifo(small / "train" / "cat" / "pipe.png")
    assert "pipe.png is neither a file nor a folder" in error_line(lambda: open_tree(small))


def test_a_folder_is_described_by_its_contents(tmp_path):
    """Messages list a folder's folders by name and its files by ending, the most frequent first."""
    assert read_entries(tmp_path).described() == "nothing"
    for name in ("a.GIF", "b.gif", "c.txt", "README"):
        (tmp_path / name).touch()
    for name in ("p", "q", "r", "s"):
        (tmp_path / name).mkdir()
    assert read_entries(tmp_path).described() == "4 folders ('p', 'q', 'r', ...), 2 .gif, 1 .txt, 1 other"


def test_few_endings_are_listed():
    """A record lists at most 16 endings of plain letters; all other files are counted together."""
    names = [f"a.{number:04}" for number in range(100)] + [
        "a.x",
        "a.X",
        "b",
        "a.with blank",
        "a." + "x" * 20,
        "a.\u00e9",
    ]
    listed = most_frequent(Counter(map(ending, names)))
    assert len(listed) == 16
    assert next(iter(listed.items())) == (".x", 2)
    assert sum(listed.values()) == len(names)
    assert most_frequent(Counter()) == {}
