"""Listing trees of image files, and the errors in them."""

from __future__ import annotations

import shutil
import unicodedata

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


def clutter(root):
    """Add files that are not read at every level of the splits, and one that is beside them."""
    for place in ("train/README.md", "train/cat/a.gif", "train/cat/b.GIF", "test/dog/a.gif", "test/dog/notes"):
        (root / place).write_text("about")
    for place in ("train/cat/more/a.png", "train/cat/more/deep/b.png", "test/dog/xml/a.xml", "train/cat/more/.b.png"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text("about")
    (root / "README.md").write_text("about")
    (root / "test" / "loose.png").write_text("about")


LEFT_OUT = {".gif": 3, ".png": 3, ".md": 1, ".xml": 1, "other": 1}
"""The files of `clutter` that are visible and in the folder of a split."""


@pytest.mark.parametrize(("side", "name"), [(SMALL, "folder"), (LARGE, "folder"), (SMALL, "imagenet")])
def test_files_that_are_not_read_are_counted_by_ending(tmp_path, side, name):
    """Files with other endings, beside the class folders or deeper are counted and said; the data stays the same."""
    root = write_tree(tmp_path, side)
    (root / "val").symlink_to("test")
    before = open_tree(root, name, image_size=side)
    assert (before.left_out, before.notes) == ({}, ())
    clutter(root)
    after = open_tree(root, name, image_size=side)
    assert after.left_out == LEFT_OUT
    assert after.notes[0].startswith("9 files are left out: 3 .gif, 3 .png, 1 .md, ...; ")
    assert (after.sha256, after.split_sha256, after.classes) == (before.sha256, before.split_sha256, before.classes)


def test_the_count_of_left_out_files_does_not_depend_on_the_limit(small):
    """Files are counted in the whole tree."""
    clutter(small)
    assert open_tree(small, limit_train=9).left_out == LEFT_OUT


def test_a_class_of_files_that_are_not_read_is_refused_with_their_endings(small):
    """The message says what was found instead of images."""
    for file in (small / "test" / "dog").iterdir():
        file.rename(file.with_suffix(".gif"))
    text = error_line(lambda: open_tree(small))
    assert text.startswith(f"{small / 'test' / 'dog'} contains no image (.jpg, ")
    assert "found 3 .gif: add images" in text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_class_names_in_another_unicode_form_are_equal(small, forms):
    """A class whose name is composed in one split and decomposed in the other is one class, with its labels."""
    expected = open_tree(small)
    for part, form in zip(("train", "test"), forms, strict=True):
        (small / part / "dog").rename(small / part / unicodedata.normalize(form, "d\u00f6g"))
        (small / part / "cat").rename(small / part / unicodedata.normalize(form, "caf\u00e9"))
    found = open_tree(small)
    assert [unicodedata.normalize("NFC", name) for name in found.classes] == ["caf\u00e9", "d\u00f6g", "emu"]
    assert torch.equal(found.test.images.stored, expected.test.images.stored)
    assert torch.equal(found.test.labels, expected.test.labels)


def test_classes_are_in_the_order_of_the_training_folders(small):
    """Labels of test images follow the training classes, also where another Unicode form is sorted differently."""
    expected = open_tree(small)
    for part, form in (("train", "NFC"), ("test", "NFD")):
        (small / part / "cat").rename(small / part / "cz")
        (small / part / "dog").rename(small / part / unicodedata.normalize(form, "c\u00e9"))  # NFD: before "cz"
    found = open_tree(small)
    assert found.classes == ("cz", "c\u00e9", "emu")
    assert torch.equal(found.test.images.stored, expected.test.images.stored)
    assert torch.equal(found.test.labels, expected.test.labels)


def test_two_folders_of_one_class_name_are_refused(small):
    """Two folders in one split whose names differ only in their Unicode form are named in ASCII."""
    for form in ("NFC", "NFD"):
        shutil.copytree(small / "train" / "cat", small / "train" / unicodedata.normalize(form, "caf\u00e9"))
    text = error_line(lambda: open_tree(small))
    assert f"two classes in {small / 'train'} have names that differ only in their Unicode form" in text
    assert "'cafe\\u0301' and 'caf\\xe9'" in text


def test_names_that_look_equal_are_told_apart(small):
    """Blanks and invisible characters in the name of a class that does not match are shown."""
    (small / "test" / "emu").rename(small / "test" / "emu\u200b ")
    assert "lacks 1 ('emu\\u200b ')" in error_line(lambda: open_tree(small))


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
    assert f"{small / 'test'} lacks 1 ('emu') and {small / 'train'} lacks 1 ('yak')" in text
