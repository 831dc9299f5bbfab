"""`digits`: 1797 handwritten digits of 8 x 8 pixels, included in pruneboard.

`digits.csv.gz` equals scikit-learn's file byte for byte: one line per image, with 64 gray levels from 0 to 16 and the
digit. It is the test set of Alpaydin and Kaynak's Optical Recognition of Handwritten Digits (1998),
from the UCI machine learning repository, https://doi.org/10.24432/C50P49, under CC BY 4.0.
"""

from __future__ import annotations

import gzip
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from pruneboard.data.arrays import Arrays, from_arrays
from pruneboard.data.splits import Source

_BRIGHTEST = 16  # largest stored gray level
_FIFTH = 5


def read_digits(image_size: int, limit_train: int | None) -> Source:
    """Read the digits as gray RGB images; every fifth image of each class is in the test split."""
    packed = (resources.files("pruneboard.data") / "digits.csv.gz").read_bytes()
    table = torch.from_numpy(np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=","))
    grey = (table[:, :-1].reshape(-1, 1, 8, 8) * (255 / _BRIGHTEST)).round().to(torch.uint8)
    stored = Arrays(grey.repeat(1, 3, 1, 1), table[:, -1].long())
    tested = _every_fifth(stored.labels)
    return from_arrays(
        tuple(str(digit) for digit in range(10)),
        stored.take((~tested).nonzero().flatten()),
        stored.take(tested.nonzero().flatten()),
        image_size=image_size,
        limit_train=limit_train,
    )


def _every_fifth(labels: Tensor) -> Tensor:
    """Return a mask of the 5th, 10th, ... image of each class, bool [N]."""
    of_class = labels[:, None] == torch.arange(10)
    place = of_class.cumsum(0)[torch.arange(len(labels)), labels]  # 1 for the first image of a class
    return place % _FIFTH == 0
