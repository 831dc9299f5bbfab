"""Opening a data set by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pruneboard.data.cifar import read_cifar
from pruneboard.data.digits import read_digits
from pruneboard.data.folder import read_folder, read_imagenet
from pruneboard.data.images import fingerprint
from pruneboard.data.splits import Dataset, Source, hold_out
from pruneboard.errors import UnknownNameError


@dataclass(frozen=True)
class _Request:
    name: str
    data_dir: str | None
    download: bool
    image_size: int
    limit_train: int | None


def _read_cifar(asked: _Request) -> Source:
    return read_cifar(asked.name, asked.data_dir, asked.image_size, asked.limit_train, download=asked.download)


_READERS: dict[str, Callable[[_Request], Source]] = {
    "digits": lambda asked: read_digits(asked.image_size, asked.limit_train),
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "folder": lambda asked: read_folder(asked.data_dir, asked.image_size, asked.limit_train),
    "imagenet": lambda asked: read_imagenet(asked.data_dir, asked.limit_train),
}

DATASETS: tuple[str, ...] = tuple(_READERS)
"""Names that `open_dataset` knows."""


_kept: dict[_Request, tuple[Source, dict[tuple[float, int], Dataset]]] | None = None
"""What was read last, and its divisions by share held out and split seed; None outside `dataset_cache`."""


@contextmanager
def dataset_cache() -> Iterator[None]:
    """Read each data set once while the block lasts: for many runs in one process, on images that stay as they are.

    Only the last one is held.
    """
    global _kept  # noqa: PLW0603 - one process, one memory
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


_stand_in: Dataset | None = None
"""What is opened instead of any data set, inside `override_dataset`."""


@contextmanager
def override_dataset(dataset: Dataset) -> Iterator[None]:
    """Open `dataset` instead of any other while the block lasts: to measure what training costs without its images."""
    global _stand_in  # noqa: PLW0603 - one process, one memory
    before, _stand_in = _stand_in, dataset
    try:
        yield
    finally:
        _stand_in = before


def _open(asked: _Request, val_fraction: float, split_seed: int) -> Dataset:
    if _stand_in is not None:
        return _stand_in
    if _kept is None:
        return _divided(asked, _READERS[asked.name](asked), val_fraction, split_seed)
    if asked not in _kept:
        _kept.clear()
        _kept[asked] = (_READERS[asked.name](asked), {})
    source, divided = _kept[asked]
    division = (val_fraction, split_seed)
    if division not in divided:
        divided[division] = _divided(asked, source, val_fraction, split_seed)
    return divided[division]


def _divided(asked: _Request, source: Source, val_fraction: float, split_seed: int) -> Dataset:
    train, validation = hold_out(source.train.labels, val_fraction, split_seed)
    return Dataset(
        name=asked.name,
        classes=source.classes,
        image_size=asked.image_size,
        mean=source.mean,
        std=source.std,
        train=source.train.select(train),
        validation=source.train.select(validation),
        test=source.test,
        sha256=source.sha256,
        split_sha256=fingerprint(train, validation),
        synthetic_scale=not source.train.streams and asked.image_size >= 2 * source.original_size,
        original_size=source.original_size,
    )


def open_dataset(
    name: str,
    *,
    data_dir: str | None,
    download: bool,
    image_size: int,
    val_fraction: float,
    limit_train: int | None,
    split_seed: int,
) -> Dataset:
    """Find a data set's images and divide its training pool; small images are decoded here, once.

    Args:
        name: one of `DATASETS`.
        data_dir: where it is; `digits` needs none.
        download: fetch `cifar10` or `cifar100` if it is not there; the others are never fetched.
        image_size: side at which batches are delivered, in pixels.
        val_fraction: share of each class of the training pool that is held out, in (0, 1).
        limit_train: size of the training pool, validation included: the first images of each class in stored
            order, as equal per class as the number allows; None, or more than there are, is all.
        split_seed: of the draw of the validation images.

    Raises:
        UnknownNameError: no such data set.
        UsageError: it needs a folder and none was named.
        DataError: it is missing, empty, or holds a file that does not decode.
    """
    if name not in _READERS:
        raise UnknownNameError("data set", name, DATASETS, "images of your own are --dataset folder --data-dir DIR")
    return _open(_Request(name, data_dir, download, image_size, limit_train), val_fraction, split_seed)
