"""Splits whose classes are in a text file: Tiny-ImageNet as it is downloaded."""

from __future__ import annotations

import shutil

import pytest
import torch

from data_cases import LARGE, SMALL, error_line, open_tree, write_tree
from pruneboard import data

BOX = "\t0\t0\t9\t9"


def as_downloaded(plain, root):
    """Copy a tree into the layout of Tiny-ImageNet; its test images get other names, in another order."""
    for folder in sorted((plain / "train").iterdir()):
        shutil.copytree(folder, root / "train" / folder.name / "images")
        (root / "train" / folder.name / f"{folder.name}_boxes.txt").write_text("boxes")
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    lines = []
    for number, file in enumerate(sorted((plain / "test").glob("*/*.png"))):
        name = f"val_{number * 5 % 9}.png"
        shutil.copy(file, root / "val" / "images" / name)
        shutil.copy(file, root / "test" / "images" / f"test_{number}.png")
        lines.append(f"{name}\t{file.parent.name}{BOX}\n")
    (root / "val" / "val_annotations.txt").write_text("".join(sorted(lines)))
    (root / "wnids.txt").write_text("names")
    return root


@pytest.fixture
def tiny(tmp_path):
    """A tree of small images in the layout of Tiny-ImageNet."""
    return as_downloaded(write_tree(tmp_path / "plain", SMALL), tmp_path / "tiny")


def by_class(split):
    """Return the images of a split as sorted (label, bytes)."""
    images = split.images.stored.numpy()
    return sorted((int(label), bytes(image)) for label, image in zip(split.labels, images, strict=True))


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_the_downloaded_layout_has_the_images_and_classes_of_a_plain_tree(tmp_path, tiny, name):
    """Training images are in `<class>/images`, test images in `val/images`, with their classes in the text file."""
    plain, found = open_tree(tmp_path / "plain"), open_tree(tiny, name)
    assert found.classes == plain.classes
    assert torch.equal(found.train.labels, plain.train.labels)
    assert found.test.labels.tolist() == plain.test.labels.tolist()
    if name == "folder":
        assert torch.equal(found.train.images.stored, plain.train.images.stored)
        assert by_class(found.test) == by_class(plain.test)
        assert data.first_image_side(str(tiny)) == SMALL


def test_images_of_a_class_are_in_the_order_of_their_names(tiny):
    """The order of the lines of the text file is no part of the data."""
    file = tiny / "val" / "val_annotations.txt"
    before = open_tree(tiny)
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    after = open_tree(tiny)
    assert after.sha256 == before.sha256
    assert torch.equal(after.test.images.stored, before.test.images.stored)


def test_test_images_without_classes_are_not_used_and_that_is_said(tiny):
    """`test/images` has no classes, so `val` is the test split; bounding boxes are files that are left out."""
    found = open_tree(tiny)
    assert found.notes[0] == ("folder test has images without classes and is not used; the test split is folder val")
    assert found.left_out == {".txt": 3}
    assert "without classes" not in str(open_tree(tiny, "imagenet").notes)


def test_flat_test_images_without_classes_are_not_used_either(small):
    """Images directly in `test` are no test split if `val` has classes; without `val` they are refused."""
    shutil.move(small / "test", small / "val")
    (small / "test").mkdir()
    shutil.copy(small / "val" / "dog" / "00.png", small / "test" / "a.png")
    assert len(open_tree(small).test) == 9
    shutil.rmtree(small / "val")
    assert "test needs a folder of images for each of 2 or more classes; found 1 .png" in error_line(
        lambda: open_tree(small)
    )


def test_large_images_in_the_downloaded_layout_stream(tmp_path):
    """The paths of streaming images include the folder `images`."""
    tiny = as_downloaded(write_tree(tmp_path / "plain", LARGE), tmp_path / "tiny")
    found = open_tree(tiny, check_images=True)
    assert found.test.images.names[0].startswith("val/images/val_")
    assert found.train.images.names[0] == "train/cat/images/00.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "does not list 1 images in {images}, the first is 'val_0.png'"),
        (
            lambda lines: [*lines, "val_99.png\tcat"],
            "lists 1 images that are not in {images}, the first is 'val_99.png'",
        ),
        (lambda lines: [*lines, "val_0.png emu"], "line 10: expected FILE, a tab and CLASS; found 'val_0.png emu'"),
        (lambda lines: [*lines, "val_0.png\tyak"], "line 10: 'val_0.png' is of class 'yak', and of class "),
        (lambda lines: [line.replace("emu", "yak") for line in lines], "lacks 1 ('emu')"),
        (
            lambda lines: [*lines, "../../x.png\temu"],
            "lists 1 images that are not in {images}, the first is '../../x.png'",
        ),
    ],
)
def test_annotations_that_do_not_fit_the_images_are_refused(tiny, change, message):
    """Missing, unknown, malformed and contradicting lines, and classes without training images, are named."""
    file = tiny / "val" / "val_annotations.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    text = error_line(lambda: open_tree(tiny))
    assert message.format(images=tiny / "val" / "images") in text


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (["cat/a.png", "dog/a.png"], "has no folder train; found 2 folders ('cat', 'dog'); point --data-dir"),
        (["Train/cat/a.png", "Test/cat/a.png"], "has no folder train; found 2 folders ('Test', 'Train')"),
        (["tiny/train/cat/a.png"], "has no folder train; found 1 folder ('tiny')"),
        (
            ["train/a.png", "train/b.png", "test/a.png"],
            "train needs a folder of images for each of 2 or more classes; ",
        ),
        (["train/cat/a.png", "train/dog/a.png"], "has no folder test or val of test images; found 1 folder ('train')"),
        (["train/cat/imgs/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png"], "found 1 folder ('imgs')"),
        (["train/cat/a.png", "train/dog/a.png", "val/a.png", "val/labels.csv"], "found 1 .csv, 1 .png"),
    ],
)
def test_any_other_layout_is_refused_with_what_was_found(tmp_path, layout, message):
    """The message says which folders and files are in the place where others are expected."""
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert message in error_line(lambda: open_tree(tmp_path))
