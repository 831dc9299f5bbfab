"""What a data set is once it is open, and how its training images are divided."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.data.images import RGB
from pruneboard.errors import DataError


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images that are in memory.

    Attributes:
        stored: uint8 [N, 3, S, S] on the CPU, channels last in memory: a row of pixels is then one piece to copy.
    """

    stored: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Lay the images out."""
        object.__setattr__(self, "stored", self.stored.contiguous(memory_format=torch.channels_last))

    def __len__(self) -> int:
        return len(self.stored)

    def on(self, device: torch.device) -> Tensor:
        """Return the images on `device`; they are copied there once."""
        if device == self.stored.device:
            return self.stored
        if device not in self._copies:
            self._copies[device] = self.stored.to(device)
        return self._copies[device]


@dataclass(frozen=True, eq=False)
class Files:
    """Images that stay on disk and are decoded each time they are seen.

    Attributes:
        root: the data set's folder.
        names: paths below it.
    """

    root: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a pool, in a fixed order.

    Attributes:
        images: the pool; splits of the same pool share it.
        rows: int64 [N], the split's images in the pool.
        labels: int64 [N], their classes, on the CPU.
    """

    images: Pixels | Files
    rows: Tensor
    labels: Tensor

    @classmethod
    def of_all(cls, images: Pixels | Files, labels: Tensor) -> Split:
        """Return the split that holds the whole pool."""
        return cls(images, torch.arange(len(images)), labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streams(self) -> bool:
        """Whether the images are read from disk each time."""
        return isinstance(self.images, Files)

    def select(self, members: Tensor) -> Split:
        """Return the split of the images at positions `members` of this one."""
        return Split(self.images, self.rows[members], self.labels[members])


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found: the images in use, before any of them are held out.

    Attributes:
        classes: their names; a label is a position in them.
        train: the training pool, already limited.
        test: the test split.
        mean: per channel, of values in [0, 1].
        std: likewise.
        sha256: of the content of both.
        original_size: side of the stored images, in pixels.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: RGB
    std: RGB
    sha256: str
    original_size: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open data set.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `folder` or `imagenet`.
        classes: class names; a label is a position in them.
        image_size: side at which batches are delivered, in pixels.
        mean: per channel, of values in [0, 1].
        std: likewise.
        train: images to train on.
        validation: images held out of the training pool, for every selection.
        test: images seen once, at the end.
        sha256: of the content in use (training pool and test); the split seed does not enter.
        split_sha256: of which images of the pool train and which validate.
        synthetic_scale: the images were enlarged at least twofold, so a stem that halves the resolution
            loses nothing.
        original_size: side of the stored images in pixels: the largest in memory, the first where they stream.
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


def first_of_each_class(labels: Tensor, limit: int | None) -> Tensor:
    """Return the positions of the first `limit` images, as equal per class as that number allows.

    Small classes are used whole and leave their share to the others; what cannot be shared equally goes
    to the first classes, one image each. With None, or a limit of all images and more, everything stays.

    Args:
        labels: int64 [N].
        limit: how many images to keep.

    Returns:
        int64 positions, ascending.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    members = _members(labels)
    shares = _shares([len(rows) for rows in members], limit)
    return torch.cat([rows[:share] for rows, share in zip(members, shares, strict=True)]).sort().values


def _shares(sizes: list[int], limit: int) -> list[int]:
    """Fill all classes to one level, as water would, and give the rest to the first that have more."""
    used = range(max(sizes) + 1)
    level = bisect.bisect_right(used, limit, key=lambda depth: sum(min(size, depth) for size in sizes)) - 1
    shares = [min(size, level) for size in sizes]
    deeper = [index for index, size in enumerate(sizes) if size > level]
    for index in deeper[: limit - sum(shares)]:
        shares[index] += 1
    return shares


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide a training pool, class by class.

    Args:
        labels: int64 [N].
        fraction: share of each class that is held out, rounded; at least one image of a class that has two,
            and never the last one.
        seed: the split seed.

    Returns:
        Positions that train and positions that validate, each int64 and ascending.

    Raises:
        DataError: no class has two images.
    """
    generator = torch.Generator().manual_seed(draws.key(seed, "split"))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for rows in _members(labels):
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        held[mixed[: _held_count(len(rows), fraction)]] = True
    if not held.any():
        raise DataError(
            f"no class has 2 of the {len(labels)} training images, so none can be held out for validation: "
            "raise --limit-train, or add images"
        )
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _held_count(size: int, fraction: float) -> int:
    return min(max(round(fraction * size), 1), size - 1) if size else 0


def _members(labels: Tensor) -> list[Tensor]:
    """Return each class's positions, ascending."""
    return list(torch.split(labels.argsort(stable=True), torch.bincount(labels).tolist()))
