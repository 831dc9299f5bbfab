"""Opens a data set by name: `open_dataset`."""

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
from pruneboard.processes import phases


@dataclass(frozen=True)
class _Query:
    name: str
    data_dir: str | None
    download: bool
    image_size: int
    limit_train: int | None
    check_images: bool


def _read_cifar(query: _Query) -> Source:
    return read_cifar(query.name, query.data_dir, query.image_size, query.limit_train, download=query.download)


_READERS: dict[str, Callable[[_Query], Source]] = {
    "digits": lambda query: read_digits(query.image_size, query.limit_train),
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "folder": lambda query: read_folder(
        query.data_dir, query.image_size, query.limit_train, check_images=query.check_images
    ),
    "imagenet": lambda query: read_imagenet(query.data_dir, query.limit_train, check_images=query.check_images),
}

DATASETS: tuple[str, ...] = tuple(_READERS)
"""Names of the data sets that `open_dataset` can open."""


_cache: dict[_Query, tuple[Source, dict[tuple[float, int], Dataset]]] | None = None
"""The source read last, and its data sets by (val_fraction, split_seed); None outside `dataset_cache`."""


@contextmanager
def dataset_cache() -> Iterator[None]:
    """During the block, reuse the data set that was read last: for many runs in one process.

    Only one data set is in memory at a time. Changes of its files during the block have no effect.
    """
    global _cache  # noqa: PLW0603 - one cache per process
    before, _cache = _cache, {}
    try:
        yield
    finally:
        _cache = before


_override: Dataset | None = None
"""The data set that is opened instead of any other inside `override_dataset`."""


@contextmanager
def override_dataset(dataset: Dataset) -> Iterator[None]:
    """During the block, open `dataset` instead of any other: to measure training cost without the real images."""
    global _override  # noqa: PLW0603 - one override per process
    before, _override = _override, dataset
    try:
        yield
    finally:
        _override = before


def _open(query: _Query, val_fraction: float, split_seed: int) -> Dataset:
    if _override is not None:
        return _override
    if _cache is None:
        return _divide(query, _read(query), val_fraction, split_seed)
    if query not in _cache:
        _cache.clear()
        _cache[query] = (_read(query), {})
    source, splits = _cache[query]
    split_key = (val_fraction, split_seed)
    if split_key not in splits:
        splits[split_key] = _divide(query, source, val_fraction, split_seed)
    return splits[split_key]


def _read(query: _Query) -> Source:
    phases.report("reading the images")
    return _READERS[query.name](query)


def _divide(query: _Query, source: Source, val_fraction: float, split_seed: int) -> Dataset:
    train, validation = hold_out(source.train.labels, val_fraction, split_seed)
    return Dataset(
        name=query.name,
        classes=source.classes,
        image_size=query.image_size,
        mean=source.mean,
        std=source.std,
        train=source.train.select(train),
        validation=source.train.select(validation),
        test=source.test,
        sha256=source.sha256,
        split_sha256=fingerprint(train, validation),
        synthetic_scale=not source.train.streams and query.image_size >= 2 * source.original_size,
        original_size=source.original_size,
        left_out=source.left_out,
        notes=source.notes,
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
    check_images: bool = False,
) -> Dataset:
    """Open a data set and hold out its validation split; small images are decoded into memory here.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of the data set; `digits` needs none.
        download: download `cifar10` or `cifar100` if it is missing; other data sets are never downloaded.
        image_size: side of the images in batches, in pixels.
        val_fraction: fraction of each class of the training pool that is held out, in (0, 1).
        limit_train: size of the training pool, validation included: the first images of each class in stored order,
            distributed over the classes as evenly as possible, which changes the shares of unbalanced classes. None,
            or more images than there are, keeps all.
        split_seed: seed of the choice of validation images.
        check_images: decode every streaming image once, instead of reading only the headers.

    Raises:
        UnknownNameError: there is no data set of this name.
        UsageError: the data set needs a folder and `data_dir` is None.
        DataError: the data set is missing or empty, or a file cannot be decoded.
    """
    if name not in _READERS:
        raise UnknownNameError("data set", name, DATASETS, "images of your own are --dataset folder --data-dir DIR")
    query = _Query(name, data_dir, download, image_size, limit_train, check_images)
    return _open(query, val_fraction, split_seed)
