"""Image folders: in memory or streaming, and ImageNet."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from data_cases import CPU, LARGE, SMALL, damage, error_line, open_tree, write_tree
from pruneboard import data
from pruneboard.data import BatchPlan
from pruneboard.processes import phases


def test_small_images_are_decoded_into_memory(small):
    """Pixels equal the files', and classes and files are sorted by name."""
    dataset = open_tree(small, image_size=SMALL)
    assert dataset.classes == ("cat", "dog", "emu")
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    files = sorted((small / "test").glob("*/*.png"))
    expected = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    assert np.array_equal(dataset.test.images.stored.numpy(), expected)
    assert (len(dataset.train), len(dataset.validation)) == (15, 3)
    assert (dataset.original_size, dataset.synthetic_scale, dataset.train.streams) == (SMALL, False, False)


def test_images_of_another_size_or_mode_become_square_rgb(small):
    """Gray, palette and transparent files of any shape become square RGB images like the others."""
    cats = small / "train" / "cat"
    for index, mode in enumerate(("L", "P", "RGBA", "1")):
        Image.new(mode, (30 + index, 10)).save(cats / f"other{index}.PNG")
    dataset = open_tree(small, image_size=16)
    assert dataset.train.images.stored.shape == (22, 3, 16, 16)
    assert dataset.original_size == 33


def test_files_beyond_the_limit_are_not_decoded(small):
    """A broken file beyond the limit is never opened; the first files of each class are used."""
    (small / "train" / "cat" / "zz.png").write_bytes(b"broken")
    dataset = open_tree(small, limit_train=7)
    kept = torch.cat([dataset.train.labels, dataset.validation.labels])
    assert torch.bincount(kept).tolist() == [3, 2, 2]
    assert len(dataset.test) == 9


def test_the_files_that_are_read_are_counted(small):
    """While images are read, the number of files is reported: those within the limit, and all test images."""
    seen = []
    with phases.reported_to(lambda *report: seen.append(report)):
        open_tree(small, limit_train=7)
    counts = [("reading the images: file", count, count) for count in (7, 9)]
    assert seen == [("reading the images", 0, 0), *counts]


@pytest.mark.parametrize(("side", "part"), [(SMALL, "train"), (SMALL, "test"), (LARGE, "train"), (LARGE, "test")])
def test_the_content_hash_depends_on_the_files_alone(tmp_path, side, part):
    """Moving the tree or changing the split seed keeps the hash; another file in either split changes it."""
    root = write_tree(tmp_path / "a", side)
    before = open_tree(root).sha256
    assert open_tree(root, split_seed=9).sha256 == before
    root = root.rename(tmp_path / "b")
    assert open_tree(root).sha256 == before
    Image.new("RGB", (side, side)).save(root / part / "dog" / "01.png")
    assert open_tree(root).sha256 != before


def test_the_same_pixels_in_another_format_are_the_same_data(tmp_path):
    """Lossless WebP instead of PNG changes neither the content hash nor the order of the images."""
    png = write_tree(tmp_path / "png", SMALL)
    webp = shutil.copytree(png, tmp_path / "webp")
    for path in sorted(webp.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
    one, other = open_tree(png), open_tree(webp)
    assert (one.sha256, one.split_sha256) == (other.sha256, other.split_sha256)
    assert torch.equal(one.train.images.stored, other.train.images.stored)


def test_large_images_stream_with_imagenets_statistics(large):
    """They stay files, and are normalized with the mean and deviation that pretrained models expect."""
    dataset = open_tree(large)
    assert dataset.train.streams
    assert dataset.test.streams
    assert (dataset.mean, dataset.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert (dataset.original_size, dataset.synthetic_scale) == (LARGE, False)


def test_imagenet_streams_images_of_any_size(tmp_path):
    """`imagenet` reads `train/` and `val/` and never decodes into memory."""
    dataset = open_tree(write_tree(tmp_path, SMALL, test="val"), "imagenet")
    assert dataset.train.streams
    assert len(dataset.test) == 9


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("fault", ["truncated", "16-bit", "no image"])
@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_an_unreadable_streaming_file_is_named_before_training(tmp_path, part, fault, name):
    """Opening a tree that streams names a file that is truncated, has 16 bits or is no image, in either split."""
    root = write_tree(tmp_path, LARGE, test="val")
    file = root / part.replace("test", "val") / "dog" / "01.png"
    if fault == "16-bit":
        Image.fromarray(np.full((LARGE, LARGE), 40000, dtype=np.uint16)).save(file)
    else:
        file.write_bytes(file.read_bytes()[:-2000] if fault == "truncated" else b"text")
    assert error_line(lambda: open_tree(root, name)).startswith(f"cannot decode {file}: ")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_every_image_is_decoded_on_request(tmp_path, part, side):
    """With `check_images`, damage in the middle of a file is named when the tree is opened."""
    root = write_tree(tmp_path, side)
    before = open_tree(root)
    assert open_tree(root, check_images=True).sha256 == before.sha256
    damage(root / part / "dog" / "01.png")
    text = error_line(lambda: open_tree(root, check_images=True))
    assert text.startswith(f"cannot decode {root / part / 'dog' / '01.png'}: ")


def test_of_many_unreadable_files_the_first_is_named(large):
    """The error does not depend on which thread is fastest."""
    for file in (large / "train").glob("*/0[1-5].png"):
        file.write_bytes(b"")
    assert str(large / "train" / "cat" / "01.png") in error_line(lambda: open_tree(large))


def turn(root, orientation):
    """Give every image of a tree of JPEG files an EXIF orientation, without changing the size of the files."""
    for file in root.rglob("*.jpg"):
        content = file.read_bytes()
        entry = content.index(b"\x01\x12\x00\x03\x00\x00\x00\x01")  # tag, type and count, big-endian
        file.write_bytes(content[: entry + 8] + orientation.to_bytes(2, "big") + content[entry + 10 :])


def evaluated(dataset):
    """Return the test images as a network sees them."""
    return next(data.eval_batches(dataset.test, dataset, BatchPlan.for_evaluation(9, CPU)))[0]


@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_the_orientation_of_images_is_part_of_their_identity(tmp_path, side):
    """Turned images are other data, with equal file sizes too; an upright orientation is none."""
    root = write_tree(tmp_path, side)
    exif = Image.Exif()
    exif.endian = ">"
    exif[ExifTags.Base.Orientation] = 1
    for file in root.rglob("*.png"):
        Image.open(file).save(file.with_suffix(".jpg"), exif=exif)
        file.unlink()
    upright = open_tree(root, image_size=side)
    upright_images = evaluated(upright)
    turn(root, 6)
    turned = open_tree(root, image_size=side)
    assert turned.sha256 != upright.sha256
    assert not torch.equal(evaluated(turned), upright_images)
    if side == SMALL:
        assert torch.equal(turned.test.images.stored, upright.test.images.stored.rot90(-1, (2, 3)))
    turn(root, 1)
    assert open_tree(root, image_size=side).sha256 == upright.sha256


@pytest.mark.parametrize(
    ("side", "image_size", "note"),
    [
        (64, 32, ["images of up to 64 px are reduced to 32 px for training: --image-size 64 keeps their size"]),
        (28, 32, ["images of up to 28 px are enlarged to 32 px for training: --image-size 28 keeps their size"]),
        (80, 32, ["images (the first has 80 px) are reduced to 32 px for training: --image-size 80 keeps their size"]),
        (32, 32, []),
        (80, 80, []),
    ],
)
def test_another_size_in_training_is_said(tmp_path, side, image_size, note):
    """A note names the stored size, the size in training and the flag; without a difference there is none."""
    root = write_tree(tmp_path, side)
    assert list(open_tree(root, image_size=image_size).notes) == note


def test_the_size_of_imagenet_is_not_mentioned(tmp_path):
    """Its images have many sizes, and are cropped in every recipe."""
    root = write_tree(tmp_path, LARGE, test="val")
    assert open_tree(root, "imagenet").notes == ()
