"""Data sets whose images are stored as one array per split (digits, CIFAR)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pruneboard.data.images import RGB, channel_statistics, fingerprint, resize
from pruneboard.data.splits import Pixels, Source, Split, first_of_each_class, limit_notes


@dataclass(frozen=True, eq=False)
class Arrays:
    """Stored images of one split.

    Attributes:
        pixels: uint8 [N, 3, H, H].
        labels: int64 [N].
    """

    pixels: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Arrays:
        """Return the images at positions `rows`."""
        return Arrays(self.pixels[rows], self.labels[rows])

    def split(self, image_size: int) -> Split:
        """Return these images as a split, resized to side `image_size`."""
        return Split.of_all(Pixels(resize(self.pixels, image_size)), self.labels)


def from_arrays(
    classes: tuple[str, ...],
    train: Arrays,
    test: Arrays,
    *,
    image_size: int,
    limit_train: int | None,
    statistics: tuple[RGB, RGB] | None = None,
) -> Source:
    """Limit the training pool, resize all images, and compute statistics and content hash.

    Args:
        classes: class names.
        train: the whole training pool in stored order.
        test: the test split.
        image_size: side of the images in batches, in pixels.
        limit_train: number of training images to keep, or None for all.
        statistics: mean and standard deviation per channel; None computes them from the limited training pool.
    """
    kept = train.take(first_of_each_class(train.labels, limit_train))
    pool = Pixels(resize(kept.pixels, image_size))
    mean, std = statistics or channel_statistics(pool.stored)
    return Source(
        classes=classes,
        train=Split.of_all(pool, kept.labels),
        test=test.split(image_size),
        mean=mean,
        std=std,
        # Hash the stored pixels: resizing may round differently on another processor.
        sha256=fingerprint(*classes, kept.pixels, kept.labels, test.pixels, test.labels),
        original_size=train.pixels.shape[-1],
        notes=tuple(limit_notes(classes, train.labels, kept.labels)),
    )
