"""Data sets, image trees and batch plans that the tests of `pruneboard.data` share."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from pruneboard import data
from pruneboard.data.splits import Dataset, Pixels, Split
from pruneboard.errors import DataError

CPU = torch.device("cpu")
SMALL, LARGE = 20, 80
"""Sides of images that are decoded into memory, and of images that stream, in pixels."""


def numbered(count=70, size=16):
    """Return a data set in which the label of an image is its number, so that batches show which images they hold."""
    pixels = torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    split = Split.of_all(Pixels(pixels), torch.arange(count))
    return Dataset(
        name="numbered",
        classes=tuple(str(i) for i in range(count)),
        image_size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        train=split,
        validation=split.select(torch.arange(0)),
        test=split,
        sha256="",
        split_sha256="",
        synthetic_scale=False,
        original_size=size,
    )


def batch_plan(**changes):
    """Return a plan for one process and images in memory, with `changes`."""
    fields = {
        "batch_size": 16,
        "micro_batch": 16,
        "rank": 0,
        "world": 1,
        "augment": "crop-flip",
        "order_seed": 3,
        "augment_seed": 4,
        "device": CPU,
    }
    return data.BatchPlan(**{**fields, **changes})


def stream_plan(**changes):
    """Return a plan for one process and streaming images, with `changes`."""
    return batch_plan(**{"batch_size": 8, "micro_batch": 2, "augment": "imagenet", "workers": 0, **changes})


def joined(batches):
    """Return the images and labels of many micro-batches as one batch."""
    batches = list(batches)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def equal(one, other):
    """Return whether two batches are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def steps(dataset, plan, **where):
    """Return the optimizer steps of an epoch, each as one batch."""
    return [joined(step) for step in data.train_batches(dataset, plan, epoch=where.pop("epoch", 0), **where)]


def open_dataset(name="digits", **changes):
    """Open a data set at 16 pixels with a tenth held out, with `changes`."""
    query = {
        "data_dir": None,
        "download": False,
        "image_size": 16,
        "val_fraction": 0.1,
        "limit_train": None,
        "split_seed": 0,
    }
    return data.open_dataset(name, **{**query, **changes})


def open_tree(root, name="folder", **changes):
    """Open a tree of images at 16 pixels with a fifth held out, with `changes`."""
    return open_dataset(name, **{"data_dir": str(root), "val_fraction": 0.2, **changes})


def stored_pixels(split):
    """Return the stored pixels of a split's images."""
    return split.images.stored[split.rows]


def write_tree(root, side, *, test="test", classes=("cat", "dog", "emu"), each=6, tested=3):
    """Write a tree of random PNG files and return its root."""
    generator = np.random.default_rng(side)
    for part, count in (("train", each), (test, tested)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


def damage(file):
    """Overwrite bytes in the middle of an image file: its header and its end stay valid."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(16)
    file.write_bytes(content)


def global_draws():
    """Draw a number from each global generator."""
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the one under test


def seed_globals():
    """Seed all global generators with 1."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the one under test
    torch.manual_seed(1)


def error_line(call):
    """Return the one-line message of the `DataError` that `call` raises; its exit code is 2."""
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


NUMBERED = numbered()
