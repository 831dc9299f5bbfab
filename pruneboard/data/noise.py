"""Images of noise, of the size and number of a data set that need not be there: to measure what a training costs."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pruneboard.data.folder import SMALL_IMAGE
from pruneboard.data.splits import Dataset, Files, Pixels, Split

DISTINCT = 16
"""Files that are written where images stream; each is named as often as it takes."""


def noise(name: str, *, classes: int, count: int, side: int, image_size: int, folder: Path) -> Dataset:
    """Return a data set whose splits are all the same `count` images.

    Args:
        name: of the data set that it stands for.
        classes: how many.
        count: how many images.
        side: of the images as the data set stores them, in pixels: large ones stream from files, as its own would.
        image_size: side at which batches are delivered.
        folder: takes these files; must be there as long as the data set is used.
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
