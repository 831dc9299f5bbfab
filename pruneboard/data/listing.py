"""Trees of image files, one folder per class: what is there, and what is missing.

DIR/train/<class>/*            and DIR/test/<class>/* or DIR/val/<class>/*
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruneboard.data.images import image_side
from pruneboard.data.splits import first_of_each_class
from pruneboard.errors import DataError, UsageError

TEST_FOLDERS = ("test", "val")
"""Names that the folder of test images may have, the preferred one first."""

_SHOWN = 3  # how many classes an error lists


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of one split.

    Attributes:
        root: the data set's folder.
        names: paths below it, class by class, by name within a class.
        labels: int64 [N].
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor

    @property
    def paths(self) -> list[Path]:
        """Where the files are."""
        return [self.root / name for name in self.names]

    def first(self, limit: int | None) -> Listing:
        """Return the first `limit` files, as equal per class as that number allows."""
        rows = first_of_each_class(self.labels, limit)
        return Listing(self.root, tuple(self.names[row] for row in rows.tolist()), self.labels[rows])


def read_tree(
    name: str, data_dir: str | None, limit_train: int | None, held_out: tuple[str, ...]
) -> tuple[tuple[str, ...], Listing, Listing]:
    """List a tree's classes, its training images and its test images.

    Args:
        name: the data set, for messages.
        data_dir: the tree, as the user gave it.
        limit_train: training images to keep, or None for all.
        held_out: names that the folder of test images may have, the preferred one first.

    Raises:
        UsageError: no folder was named.
        DataError: a folder is missing or empty, or the two halves have different classes.
    """
    if data_dir is None:
        raise UsageError(f"{name} needs --data-dir DIR: {_wanted(held_out)}")
    root = Path(data_dir)
    train_folder = _train_folder(name, root, held_out)
    test_folder = next((root / part for part in held_out if (root / part).is_dir()), None)
    if test_folder is None:
        raise DataError(f"{root} has no folder {' or '.join(held_out)} of test images: {_wanted(held_out)}")
    classes = _classes(train_folder)
    _check_same(classes, _classes(test_folder), train_folder, test_folder)
    return tuple(classes), _list(root, "train", classes).first(limit_train), _list(root, test_folder.name, classes)


def _wanted(held_out: tuple[str, ...]) -> str:
    trees = " or ".join(f"{part}/<class>/*" for part in held_out)
    return f"point --data-dir at the folder that holds train/<class>/* and {trees}"


def _train_folder(name: str, root: Path, held_out: tuple[str, ...] = TEST_FOLDERS) -> Path:
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root}; {_wanted(held_out)}")
    if not (root / "train").is_dir():
        raise DataError(f"{name}: {root} has no folder train; {_wanted(held_out)}")
    return root / "train"


def _classes(folder: Path) -> list[str]:
    """Return the class folders by name; hidden ones (`.ipynb_checkpoints`) are nobody's class."""
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise DataError(f"{folder} needs a folder of images for each of 2 or more classes; found {found}")
    return names


def _image_names(folder: Path) -> list[str]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    names = sorted(
        entry.name for entry in _entries(folder) if entry.name.lower().endswith(IMG_EXTENSIONS) and entry.is_file()
    )
    if not names:
        known = ", ".join(IMG_EXTENSIONS)
        raise DataError(f"{folder} holds no image ({known}): add images to this class, or delete its folder")
    return names


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; make it readable, or choose another") from None


def _check_same(train: list[str], test: list[str], train_folder: Path, test_folder: Path) -> None:
    for more, fewer, lacking in ((train, test, test_folder), (test, train, train_folder)):
        missing = sorted(set(more) - set(fewer))
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            raise DataError(
                f"{train_folder} and {test_folder} must hold the same classes: {lacking} lacks {len(missing)} "
                f"({shown}); add or delete these folders"
            )


def _list(root: Path, part: str, classes: list[str]) -> Listing:
    files = [[f"{part}/{name}/{file}" for file in _image_names(root / part / name)] for name in classes]
    labels = torch.tensor([label for label, names in enumerate(files) for _ in names])
    return Listing(root, tuple(name for names in files for name in names), labels)


def first_image_side(data_dir: str) -> int:
    """Return the longer side of the first training image below `data_dir`, in pixels; only its header is read.

    Raises:
        DataError: there is no such image, or it does not decode.
    """
    folder = _train_folder("folder", Path(data_dir))
    first = _classes(folder)[0]
    return image_side(folder / first / _image_names(folder / first)[0])
