"""`folder` and `imagenet`: image files. Small images are decoded once into memory, large ones stream."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruneboard.data.images import RGB, UPRIGHT, channel_statistics, check_header, decode, fingerprint, image_side
from pruneboard.data.listing import TEST_FOLDERS, Listing, Tree, read_tree
from pruneboard.data.splits import Files, Pixels, Source, Split, limit_notes
from pruneboard.errors import DataError
from pruneboard.processes import phases

SMALL_IMAGE = 64
"""Largest side of images that are decoded into memory, in pixels."""

_TASK = 64  # files per task of a thread

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Decoded images of a listing.

    Attributes:
        pixels: uint8 [N, 3, S, S].
        sha256: hash of each image before resizing.
        side: largest side before resizing, in pixels.
    """

    pixels: Tensor
    sha256: list[str]
    side: int


def read_folder(data_dir: str | None, image_size: int, limit_train: int | None, *, check_images: bool) -> Source:
    """Read a tree of images: into memory if the first image is small, else streaming.

    In memory, images that are not square are resized to a square; streaming images are cropped. Headers of
    streaming images are read here; with `check_images`, the images are decoded once.

    Raises:
        UsageError: `data_dir` is None.
        DataError: the tree is missing, empty or inconsistent, or a file cannot be decoded.
    """
    tree = read_tree("folder", data_dir, TEST_FOLDERS)
    train = tree.train.first(limit_train)
    if image_side(train.root / train.names[0]) <= SMALL_IMAGE:
        source = _in_memory(tree, train, image_size)
        sides = f"images of up to {source.original_size} px are"
    else:
        source = _streaming(tree, train, check_images=check_images)
        sides = f"images (the first has {source.original_size} px) are"
    return replace(source, notes=(*source.notes, *_size_note(sides, source.original_size, image_size)))


def _size_note(sides: str, side: int, image_size: int) -> list[str]:
    """Say that images are trained at another size than they are stored at."""
    if side == image_size:
        return []
    change = "reduced" if side > image_size else "enlarged"
    return [f"{sides} {change} to {image_size} px for training: --image-size {side} keeps their size"]


def read_imagenet(data_dir: str | None, limit_train: int | None, *, check_images: bool) -> Source:
    """Read ImageNet from its usual `train/` and `val/` trees; it always streams.

    Raises:
        UsageError: `data_dir` is None.
        DataError: the tree is missing, empty or inconsistent, or a file cannot be decoded.
    """
    tree = read_tree("imagenet", data_dir, ("val",))
    return _streaming(tree, tree.train.first(limit_train), check_images=check_images)


def _in_memory(tree: Tree, train: Listing, image_size: int) -> Source:
    test = tree.test
    pool, held_out = _decode_all(train, image_size), _decode_all(test, image_size)
    mean, std = channel_statistics(pool.pixels)
    return Source(
        classes=tree.classes,
        train=Split.of_all(Pixels(pool.pixels), train.labels),
        test=Split.of_all(Pixels(held_out.pixels), test.labels),
        mean=mean,
        std=std,
        sha256=_content(_stems(train), pool.sha256, _stems(test), held_out.sha256),
        original_size=max(pool.side, held_out.side),
        left_out=tree.left_out,
        notes=(*tree.notes(), *limit_notes(tree.classes, tree.train.labels, train.labels)),
    )


def _streaming(tree: Tree, train: Listing, *, check_images: bool) -> Source:
    test = tree.test
    paths = [*train.paths, *test.paths]
    # Training would meet a broken file only after hours, in the test split at its very end.
    orientations = _in_threads(lambda _, path: check_header(path), paths)
    if check_images:
        _in_threads(lambda _, path: decode(path), paths)
    marks = _marks(paths, orientations)
    mean, std = _imagenet_statistics()
    return Source(
        classes=tree.classes,
        train=Split.of_all(Files(str(train.root), train.names), train.labels),
        test=Split.of_all(Files(str(test.root), test.names), test.labels),
        mean=mean,
        std=std,
        sha256=_content(train.names, marks[: len(train.names)], test.names, marks[len(train.names) :]),
        original_size=image_side(train.root / train.names[0]),
        left_out=tree.left_out,
        notes=(*tree.notes(), *limit_notes(tree.classes, tree.train.labels, train.labels)),
    )


def _imagenet_statistics() -> tuple[RGB, RGB]:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def _decode_all(listing: Listing, image_size: int) -> _Decoded:
    """Decode every file into one tensor; threads write to the rows of their images."""
    pixels = np.empty((len(listing.names), 3, image_size, image_size), dtype=np.uint8)

    def decode_one(row: int, path: Path) -> tuple[str, int]:
        image = decode(path, io.BytesIO(_read(path)))
        pixels[row] = np.asarray(_fit(image, image_size)).transpose(2, 0, 1)
        # Hash the decoded pixels, not the file: PNG and lossless WebP of the same image are the same data.
        return fingerprint("x".join(map(str, image.size)), image.tobytes()), max(image.size)

    found = _in_threads(decode_one, listing.paths)
    return _Decoded(torch.from_numpy(pixels), [sha256 for sha256, _ in found], max(side for _, side in found))


def _fit(image: Image.Image, size: int) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def _in_threads(work: Callable[[int, Path], _T], paths: list[Path]) -> list[_T]:
    """Return `work(row, path)` of every path; of several errors, that of the first path is raised."""

    def work_on(rows: range) -> list[_T]:
        return [work(row, paths[row]) for row in rows]

    # A task takes many files, because a million pending tasks would need gigabytes.
    tasks = [range(start, min(start + _TASK, len(paths))) for start in range(0, len(paths), _TASK)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        done = []
        for task, found in zip(tasks, pool.map(work_on, tasks), strict=True):
            done += found
            phases.report("reading the images: file", task.stop, len(paths))
        return done


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable, or delete it") from None


def _marks(paths: list[Path], orientations: list[int]) -> list[str]:
    """Return the size of each file in bytes, for the content hash: reading a large data set would take hours.

    An orientation is added, because images with one were trained as stored by earlier versions.
    """
    try:
        sizes = [path.stat().st_size for path in paths]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; make it readable, or delete it") from None
    return [
        f"{size}" if orientation == UPRIGHT else f"{size} orientation {orientation}"
        for size, orientation in zip(sizes, orientations, strict=True)
    ]


def _stems(listing: Listing) -> list[str]:
    """Return the file names without suffix: the image format is no part of the content."""
    return [name.rpartition(".")[0] for name in listing.names]


def _content(train: Sequence[str], train_marks: list[str], test: Sequence[str], test_marks: list[str]) -> str:
    """Return the content hash of both splits, from the name and a mark (hash or size) of every file."""
    pairs = sorted([*zip(train, train_marks, strict=True), *zip(test, test_marks, strict=True)])
    return fingerprint(*(text for pair in pairs for text in pair))
