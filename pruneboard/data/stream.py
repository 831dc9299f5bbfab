"""Streaming images: worker processes decode and transform each file whenever it is used.

The random transform of an image runs under global generators seeded by (seed, stream, epoch, position in the epoch).
Which worker reads it, and how many there are, therefore does not matter.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data

from pruneboard import draws
from pruneboard.data.images import decode
from pruneboard.data.splits import Files
from pruneboard.errors import DataError

Transform = Callable[[Image.Image], Tensor]
SeedParts = tuple[int, str, int]  # seed, stream, epoch


class Reader(data.Dataset[Tensor | str]):
    """One pass over some files in a fixed order. It must be picklable for workers that are not forked."""

    def __init__(self, files: Files, rows: Tensor, transform: Transform, seed: SeedParts | None) -> None:
        """Store the order and the transform.

        Args:
            files: the pool.
            rows: int64, positions in the pool of the files to read, in order.
            transform: PIL image -> uint8 [3, S, S]; may draw from the global generators.
            seed: key of these draws, together with the position in the order; None if the transform draws nothing.
        """
        self.files = files
        self.rows = rows
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Tensor | str:
        """Return the image, or an error message: an exception would reach the user with the worker's traceback."""
        try:
            image = decode(Path(self.files.root, self.files.names[int(self.rows[position])]))
        except DataError as error:
            return str(error)
        if self.seed is None:
            return self.transform(image)
        with seeded(draws.key(*self.seed, position)):
            return self.transform(image)


def read_batches(reader: Reader, spans: Sequence[range], *, workers: int, pin: bool) -> Iterator[Tensor]:
    """Yield the images of each span of positions, in order.

    Args:
        reader: the files to read.
        spans: the positions of each batch.
        workers: processes that decode; 0 decodes in this process. The result does not depend on it.
        pin: return batches in page-locked memory, for copies to a GPU.

    Yields:
        uint8 [len(span), 3, S, S] on the CPU.

    Raises:
        DataError: a file cannot be decoded.
    """
    batch_sampler: Any = spans  # annotated as lists, but ranges work and need no memory
    loader: data.DataLoader[Any] = data.DataLoader(
        reader,
        batch_sampler=batch_sampler,
        num_workers=min(workers, len(os.sched_getaffinity(0))),
        collate_fn=_stack,
        pin_memory=pin,
        generator=torch.Generator(),  # without it, the loader would draw from the global generator
    )
    for batch in loader:
        if isinstance(batch, str):
            raise DataError(batch)
        yield batch


def _stack(images: list[Tensor | str]) -> Tensor | str:
    tensors: list[Tensor] = []
    for image in images:
        if isinstance(image, str):
            return image
        tensors.append(image)
    return torch.stack(tensors)


def training_transform(image_size: int) -> Transform:
    """Return timm's random resized crop and flip, PIL image -> uint8 [3, S, S]."""
    from timm.data import create_transform

    made = create_transform(
        image_size,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=None,
        auto_augment=None,
        interpolation="bilinear",
        normalize=False,  # batches are normalized on the device
    )
    return cast("Transform", made)


def evaluation_transform(image_size: int) -> Transform:
    """Return timm's resize and center crop, PIL image -> uint8 [3, S, S]."""
    from timm.data import create_transform

    made = create_transform(
        image_size, is_training=False, interpolation="bilinear", crop_pct=0.875, crop_mode="center", normalize=False
    )
    return cast("Transform", made)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generators of Python, numpy and torch during the block, then restore them.

    timm's transforms draw from these generators and accept no other.
    """
    python, legacy, default = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - numpy's global generator is the one to seed
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(default)
