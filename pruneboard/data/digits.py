"""`digits`: 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn; needs no network."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneboard.data.arrays import Arrays, from_arrays
from pruneboard.data.splits import Source

_BRIGHTEST = 16  # of the stored values
_FIFTH = 5


def read_digits(image_size: int, limit_train: int | None) -> Source:
    """Return the digits as grey RGB; every fifth image of each class is for the test."""
    from sklearn.datasets import load_digits

    values, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    grey = (values.reshape(-1, 1, 8, 8) * (255 / _BRIGHTEST)).round().to(torch.uint8)
    stored = Arrays(grey.repeat(1, 3, 1, 1), labels.long())
    tested = _every_fifth(stored.labels)
    return from_arrays(
        tuple(str(digit) for digit in range(10)),
        stored.take((~tested).nonzero().flatten()),
        stored.take(tested.nonzero().flatten()),
        image_size=image_size,
        limit_train=limit_train,
    )


def _every_fifth(labels: Tensor) -> Tensor:
    """Return a mask of each class's 5th, 10th, ... image."""
    of_class = labels[:, None] == torch.arange(10)
    place = of_class.cumsum(0)[torch.arange(len(labels)), labels]  # 1 for a class's first image
    return place % _FIFTH == 0
