"""Listing trees of image files, and the errors in them."""

from __future__ import annotations

import shutil

import pytest
import torch

from data_cases import LARGE, SMALL, error_line, open_dataset, open_tree, write_tree
from pruneboard import data
from pruneboard.errors import UsageError


def test_val_is_the_test_split_if_there_is_no_test(tmp_path):
    """`test` is used if both folders exist, else `val`."""
    with_test, with_val = write_tree(tmp_path / "a", SMALL), write_tree(tmp_path / "b", SMALL, test="val")
    assert torch.equal(open_tree(with_test).test.images.stored, open_tree(with_val).test.images.stored)
    shutil.copytree(with_val / "val" / "cat", with_test / "val" / "cat")
    assert len(open_tree(with_test).test) == 9


def test_hidden_folders_and_other_files_are_ignored(small):
    """`.ipynb_checkpoints`, `README.md` and text files become neither classes nor images."""
    (small / "train" / ".ipynb_checkpoints").mkdir()
    (small / "train" / "README.md").write_text("about")
    (small / "train" / "cat" / "notes.txt").write_text("about")
    assert len(open_tree(small).classes) == 3


def test_the_side_is_that_of_the_first_training_image(small, large):
    """`first_image_side` returns the side of small and large images."""
    assert data.first_image_side(str(small)) == SMALL
    assert data.first_image_side(str(large)) == LARGE


def test_a_missing_folder_is_refused_with_the_option(tmp_path):
    """Without `--data-dir`, folder or `train`, the message names the option and the expected tree."""
    with pytest.raises(UsageError, match=r"folder needs --data-dir DIR.*train/<class>"):
        open_dataset("folder")
    gone = tmp_path / "gone"
    assert f"there is no folder {gone}; point --data-dir at" in error_line(lambda: open_tree(gone))
    assert f"{tmp_path} has no folder train; found nothing; point --data-dir at" in error_line(
        lambda: open_tree(tmp_path)
    )
    assert "there is no folder" in error_line(lambda: data.first_image_side(str(gone)))


def test_a_tree_without_test_images_is_refused(small):
    """A tree needs `test` or `val`; for `imagenet` only `val` counts."""
    assert "has no folder val of test images" in error_line(lambda: open_tree(small, "imagenet"))
    shutil.rmtree(small / "test")
    assert "has no folder test or val of test images" in error_line(lambda: open_tree(small))


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(small, part):
    """The message has the path of the class without images, and a remedy."""
    for file in (small / part / "dog").iterdir():
        file.unlink()
    text = error_line(lambda: open_tree(small))
    assert text.startswith(f"{small / part / 'dog'} contains no image")
    assert "delete its folder" in text


def test_one_class_is_not_enough(tmp_path):
    """Fewer than two class folders are refused."""
    root = write_tree(tmp_path, SMALL, classes=("cat",))
    assert "2 or more classes; found 1 folder ('cat')" in error_line(lambda: open_tree(root))
    shutil.rmtree(root / "train" / "cat")
    assert "2 or more classes; found nothing" in error_line(lambda: data.first_image_side(str(root)))


def test_classes_that_differ_between_training_and_test_are_named(small):
    """The message says which folder lacks which class."""
    (small / "test" / "emu").rename(small / "test" / "yak")
    text = error_line(lambda: open_tree(small))
    assert f"{small / 'test'} lacks 1 (emu)" in text
