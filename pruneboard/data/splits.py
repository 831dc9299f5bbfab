"""Data sets, their splits, and the division of the training pool into training and validation images."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.data.images import RGB
from pruneboard.errors import DataError


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images in memory.

    Attributes:
        stored: uint8 [N, 3, S, S] on the CPU, in channels-last memory format, so that rows of pixels are contiguous.
    """

    stored: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Convert the images to channels-last memory format."""
        object.__setattr__(self, "stored", self.stored.contiguous(memory_format=torch.channels_last))

    def __len__(self) -> int:
        return len(self.stored)

    def on(self, device: torch.device) -> Tensor:
        """Return the images on `device`; the first call copies them."""
        if device == self.stored.device:
            return self.stored
        if device not in self._copies:
            self._copies[device] = self.stored.to(device)
        return self._copies[device]


@dataclass(frozen=True, eq=False)
class Files:
    """Images that stay on disk and are decoded whenever they are used.

    Attributes:
        root: folder of the data set.
        names: paths relative to `root`.
    """

    root: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Split:
    """A selection of the images of a pool, in a fixed order.

    Attributes:
        images: the pool, shared by all splits of it.
        rows: int64 [N], positions of the split's images in the pool.
        labels: int64 [N], their classes, on the CPU.
    """

    images: Pixels | Files
    rows: Tensor
    labels: Tensor

    @classmethod
    def of_all(cls, images: Pixels | Files, labels: Tensor) -> Split:
        """Return the whole pool as a split."""
        return cls(images, torch.arange(len(images)), labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streams(self) -> bool:
        """Whether the images are read from disk whenever they are used."""
        return isinstance(self.images, Files)

    def select(self, members: Tensor) -> Split:
        """Return the images at positions `members` of this split as a split."""
        return Split(self.images, self.rows[members], self.labels[members])


@dataclass(frozen=True, eq=False)
class Source:
    """The images of a data set before validation images are held out.

    Attributes:
        classes: class names; labels are positions in this tuple.
        train: the training pool, after `limit_train`.
        test: the test split.
        mean: mean per channel, for values in [0, 1].
        std: standard deviation per channel.
        sha256: content hash of training pool and test split.
        original_size: side of the stored images, in pixels.
        left_out: number of files that are not read, by the ending of their names.
        notes: what a user should know before training, in lines of text.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: RGB
    std: RGB
    sha256: str
    original_size: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open data set.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `folder` or `imagenet`.
        classes: class names; labels are positions in this tuple.
        image_size: side of the images in batches, in pixels.
        mean: mean per channel, for values in [0, 1].
        std: standard deviation per channel.
        train: training images.
        validation: images held out of the training pool; every selection uses them.
        test: images for the final evaluation.
        sha256: content hash of training pool and test split; it does not depend on the split seed.
        split_sha256: hash of the division of the pool into training and validation images.
        synthetic_scale: whether the images were enlarged at least twofold, so that a stem that halves the resolution
            loses nothing.
        original_size: side of the stored images, in pixels: of the largest if in memory, of the first if streaming.
        left_out: number of files that are not read, by the ending of their names.
        notes: what a user should know before training, in lines of text.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    mean: RGB
    std: RGB
    train: Split
    validation: Split
    test: Split
    sha256: str
    split_sha256: str
    synthetic_scale: bool
    original_size: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def first_of_each_class(labels: Tensor, limit: int | None) -> Tensor:
    """Return the positions of the first `limit` images, distributed over the classes as evenly as possible.

    Classes that are too small are used completely, and the others get more. A remainder goes to the first classes, one
    image each. If `limit` is None or not less than N, all images are kept.

    Args:
        labels: int64 [N].
        limit: number of images to keep.

    Returns:
        int64 positions, ascending.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    members = _members(labels)
    shares = _shares([len(rows) for rows in members], limit)
    return torch.cat([rows[:share] for rows, share in zip(members, shares, strict=True)]).sort().values


_NOTICEABLE = 0.01
"""Smallest change of the share of a class that is said."""


def limit_notes(classes: Sequence[str], labels: Tensor, kept: Tensor) -> list[str]:
    """Return a note if a limit changes the shares of unbalanced classes: it keeps equally many images of each.

    Args:
        classes: class names.
        labels: int64 [N], of all images.
        kept: int64 [M], of the images that are kept.
    """
    before, after = (torch.bincount(each, minlength=len(classes)) for each in (labels, kept))
    shares = before / len(labels), after / len(kept)
    change, most = (shares[1] - shares[0]).abs().max(0)
    if change < _NOTICEABLE or before.min() == before.max():
        return []
    was, now = (f"{float(share[most]):.1%}" for share in shares)
    name = classes[int(most)]
    rule = f"--limit-train {len(kept)} keeps equally many images of each class as far as there are enough"
    return [
        f"{rule}, which changes their shares: that of {name!r} from {was} to {now}; leave it out to keep all images"
    ]


def _shares(sizes: list[int], limit: int) -> list[int]:
    """Return the images per class: min(size, level) for the highest level that fits, and the remainder one by one."""
    levels = range(max(sizes) + 1)
    level = bisect.bisect_right(levels, limit, key=lambda count: sum(min(size, count) for size in sizes)) - 1
    shares = [min(size, level) for size in sizes]
    larger = [index for index, size in enumerate(sizes) if size > level]
    for index in larger[: limit - sum(shares)]:
        shares[index] += 1
    return shares


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide a training pool into training and validation images, class by class.

    One generator, keyed by the split seed, permutes the images of class 0, 1, ...; the first ones of each permutation
    are held out. The division depends on labels and seed alone, so it is the same for every method and process.

    Args:
        labels: int64 [N].
        fraction: fraction of each class to hold out, rounded to a number of images: at least one if the class has two,
            and never all.
        seed: the split seed.

    Returns:
        Positions of the training and of the validation images, each int64 and ascending.

    Raises:
        DataError: no class has two images.
    """
    generator = torch.Generator().manual_seed(draws.key(seed, "split"))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for rows in _members(labels):
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        held[shuffled[: _held_count(len(rows), fraction)]] = True
    if not held.any():
        raise DataError(
            f"no class has 2 of the {len(labels)} training images, so none can be held out for validation: "
            "raise --limit-train, or add images"
        )
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _held_count(size: int, fraction: float) -> int:
    return min(max(round(fraction * size), 1), size - 1) if size else 0


def _members(labels: Tensor) -> list[Tensor]:
    """Return the positions of the images of each class, ascending."""
    return list(torch.split(labels.argsort(stable=True), torch.bincount(labels).tolist()))
