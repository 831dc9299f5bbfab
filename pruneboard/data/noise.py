"""A data set of noise with the image size of a real one, to measure training cost without its images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pruneboard.data.folder import SMALL_IMAGE
from pruneboard.data.splits import Dataset, Files, Pixels, Split

DISTINCT = 16
"""Number of distinct files if images stream; the listing repeats them."""


def noise_dataset(name: str, *, classes: int, count: int, side: int, image_size: int, folder: Path) -> Dataset:
    """Return a data set of noise; all three splits hold the same `count` images.

    Args:
        name: name of the data set that it replaces.
        classes: number of classes.
        count: number of images.
        side: side of the replaced data set's stored images, in pixels; like them, large images stream from files.
        image_size: side of the images in batches, in pixels.
        folder: folder for these files; must exist as long as the data set is used.
    """
    generator = torch.Generator().manual_seed(0)
    if side > SMALL_IMAGE:
        images: Pixels | Files = _files(folder, count, side, generator)
    else:
        stored = torch.randint(0, 256, (count, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
        images = Pixels(stored)
    split = Split.of_all(images, torch.arange(count) % classes)
    return Dataset(
        name=name,
        classes=tuple(map(str, range(classes))),
        image_size=image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
        train=split,
        validation=split,
        test=split,
        sha256="0" * 64,
        split_sha256="0" * 64,
        synthetic_scale=side <= SMALL_IMAGE and image_size >= 2 * side,
        original_size=side,
    )


def _files(folder: Path, count: int, side: int, generator: torch.Generator) -> Files:
    names = [f"{number}.jpg" for number in range(min(DISTINCT, count))]
    for name in names:
        pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / name)
    return Files(str(folder), tuple(names[number % len(names)] for number in range(count)))
