"""Lists trees of image files with one folder per class, and reports what is missing.

The expected tree is DIR/train/<class>/* and DIR/test/<class>/* or DIR/val/<class>/*.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruneboard.data.entries import Entries, image_endings, read_entries, subfolder
from pruneboard.data.images import image_side
from pruneboard.data.splits import first_of_each_class
from pruneboard.errors import DataError, UsageError

TEST_FOLDERS = ("test", "val")
"""Possible names of the folder of test images, in order of preference."""

_SHOWN = 3  # classes listed in an error message


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of one split.

    Attributes:
        root: folder of the data set.
        names: paths relative to `root`, sorted by class, then by file name.
        labels: int64 [N].
    """

    root: Path
    names: tuple[str, ...]
    labels: Tensor

    @property
    def paths(self) -> list[Path]:
        """Full paths of the files."""
        return [self.root / name for name in self.names]

    def first(self, limit: int | None) -> Listing:
        """Return the first `limit` files, distributed over the classes as evenly as possible."""
        rows = first_of_each_class(self.labels, limit)
        return Listing(self.root, tuple(self.names[row] for row in rows.tolist()), self.labels[rows])


def read_tree(
    name: str, data_dir: str | None, limit_train: int | None, test_names: tuple[str, ...]
) -> tuple[tuple[str, ...], Listing, Listing]:
    """List the classes, the training images and the test images of a tree.

    Args:
        name: name of the data set, for messages.
        data_dir: root folder of the tree, as given by the user.
        limit_train: number of training images to keep, or None for all.
        test_names: possible names of the folder of test images, in order of preference.

    Raises:
        UsageError: `data_dir` is None.
        DataError: a folder is missing or empty, or the classes of training and test images differ.
    """
    if data_dir is None:
        raise UsageError(f"{name} needs --data-dir DIR: {_expected_tree(test_names)}")
    root = Path(data_dir)
    train_folder = _train_folder(name, root, test_names)
    test_folder = next(filter(None, (subfolder(root, part) for part in test_names)), None)
    if test_folder is None:
        raise DataError(f"{root} has no folder {' or '.join(test_names)} of test images: {_expected_tree(test_names)}")
    classes = _classes(train_folder)
    _check_same(classes, _classes(test_folder), train_folder, test_folder)
    return tuple(classes), _list(root, "train", classes).first(limit_train), _list(root, test_folder.name, classes)


def _expected_tree(test_names: tuple[str, ...]) -> str:
    trees = " or ".join(f"{part}/<class>/*" for part in test_names)
    return f"point --data-dir at the folder that contains train/<class>/* and {trees}"


def _train_folder(name: str, root: Path, test_names: tuple[str, ...] = TEST_FOLDERS) -> Path:
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root}; {_expected_tree(test_names)}")
    train_folder = subfolder(root, "train")
    if train_folder is None:
        found = read_entries(root).described()
        raise DataError(f"{name}: {root} has no folder train; found {found}; {_expected_tree(test_names)}")
    return train_folder


def _classes(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted, without hidden folders such as `.ipynb_checkpoints`."""
    found = read_entries(folder)
    if len(found.folders) < 2:
        raise DataError(f"{folder} needs a folder of images for each of 2 or more classes; found {found.described()}")
    return list(found.folders)


def _images(folder: Path) -> Entries:
    """Return the entries of a class folder, which must contain an image."""
    found = read_entries(folder)
    if not found.images:
        raise DataError(
            f"{folder} contains no image ({', '.join(image_endings())}); found {found.described()}: "
            "add images to this class, or delete its folder"
        )
    return found


def _check_same(train: list[str], test: list[str], train_folder: Path, test_folder: Path) -> None:
    for more, fewer, lacking in ((train, test, test_folder), (test, train, train_folder)):
        missing = sorted(set(more) - set(fewer))
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            raise DataError(
                f"{train_folder} and {test_folder} must have the same classes: {lacking} lacks {len(missing)} "
                f"({shown}); add or delete these folders"
            )


def _list(root: Path, part: str, classes: list[str]) -> Listing:
    files = [[f"{part}/{name}/{file}" for file in _images(root / part / name).images] for name in classes]
    labels = torch.tensor([label for label, names in enumerate(files) for _ in names])
    return Listing(root, tuple(name for names in files for name in names), labels)


def first_image_side(data_dir: str) -> int:
    """Return the longer side of the first training image below `data_dir`, in pixels; reads only its header.

    Raises:
        DataError: there is no training image, or it cannot be decoded.
    """
    folder = _train_folder("folder", Path(data_dir))
    first = _classes(folder)[0]
    return image_side(folder / first / _images(folder / first).images[0])
