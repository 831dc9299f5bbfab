"""Image folders: in memory or streaming, and ImageNet."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from data_cases import LARGE, SMALL, open_tree, write_tree


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
