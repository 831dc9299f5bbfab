"""`cifar10` and `cifar100`, read with torchvision; downloaded only on request."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

from pruneboard.data.arrays import Arrays, from_arrays
from pruneboard.data.images import RGB
from pruneboard.data.splits import Source
from pruneboard.errors import DataError

DEFAULT_DIR = "data"
_STATISTICS: dict[str, tuple[RGB, RGB]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def read_cifar(name: str, data_dir: str | None, image_size: int, limit_train: int | None, *, download: bool) -> Source:
    """Read CIFAR-10 or CIFAR-100, in the order of torchvision's files.

    Args:
        name: `cifar10` or `cifar100`.
        data_dir: folder that contains `cifar-10-batches-py` or `cifar-100-python`; None is `data`.
        image_size: side of the images in batches, in pixels.
        limit_train: number of training images to keep, or None for all.
        download: download the files if they are missing.

    Raises:
        DataError: the files are missing or damaged, or the download failed.
    """
    root = Path(data_dir or DEFAULT_DIR)
    reader = _reader(name)
    if download:
        _fetch(reader, name, root)
    elif not (root / reader.base_folder).is_dir():
        raise DataError(
            f"{name} is not in {root}: add --download, or point --data-dir at the folder that contains "
            f"{reader.base_folder}"
        )
    train, test = (_open(reader, name, root, train=train) for train in (True, False))
    return from_arrays(
        tuple(train.classes),
        _arrays(train),
        _arrays(test),
        image_size=image_size,
        limit_train=limit_train,
        statistics=_STATISTICS[name],
    )


def _reader(name: str) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _fetch(reader: Any, name: str, root: Path) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some versions print there, which would break --json
            reader(root=root, train=False, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"cannot download {name} to {root}: {_line(error)}; check the network, or put {reader.base_folder} "
            "there yourself and omit --download"
        ) from None


def _open(reader: Any, name: str, root: Path, *, train: bool) -> Any:
    try:
        return reader(root=root, train=train)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} in {root / reader.base_folder} is incomplete or damaged ({_line(error)}): "
            "delete that folder and add --download"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _arrays(opened: Any) -> Arrays:
    pixels = torch.from_numpy(opened.data).permute(0, 3, 1, 2).contiguous()
    return Arrays(pixels, torch.tensor(opened.targets, dtype=torch.int64))
