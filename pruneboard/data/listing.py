"""Lists trees of image files with one folder per class, and reports what is missing.

The expected tree is DIR/train/<class>/* and DIR/test/<class>/* or DIR/val/<class>/*.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruneboard.data.entries import (
    Entries,
    count_files,
    counted,
    ending,
    image_endings,
    most_frequent,
    quoted,
    read_entries,
    subfolder,
)
from pruneboard.data.images import image_side
from pruneboard.data.splits import first_of_each_class
from pruneboard.errors import DataError, UsageError

TEST_FOLDERS = ("test", "val")
"""Possible names of the folder of test images, in order of preference."""


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


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree of image files.

    Attributes:
        classes: names of the class folders of the training images, sorted.
        train: all training images.
        test: the test images.
        left_out: number of visible files in the folders of both splits that are not read, by the ending of their names.
    """

    classes: tuple[str, ...]
    train: Listing
    test: Listing
    left_out: Mapping[str, int]

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know about files that are not read, in lines of text."""
        if not self.left_out:
            return ()
        count = sum(self.left_out.values())
        verb = "1 file is" if count == 1 else f"{count:,} files are"
        read = ", ".join(image_endings())
        note = f"{verb} left out: {counted(self.left_out)}; in each class folder, files that end in {read} are read"
        return (note,)


@dataclass(frozen=True)
class _Class:
    """The entries of one class folder."""

    entries: Entries

    def names(self, root: Path) -> list[str]:
        """Return the paths of the images relative to `root`."""
        folder = self.entries.path.relative_to(root).as_posix()
        return [f"{folder}/{file}" for file in self.entries.images]

    def left_out(self) -> Counter[str]:
        """Return the number of files that are not read, by ending."""
        below = (count_files(self.entries.path / name) for name in self.entries.folders)
        return sum(below, Counter(map(ending, self.entries.others)))


def read_tree(name: str, data_dir: str | None, test_names: tuple[str, ...]) -> Tree:
    """List the classes, the training images and the test images of a tree.

    Args:
        name: name of the data set, for messages.
        data_dir: root folder of the tree, as given by the user.
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
    train, test = _split(train_folder), _split(test_folder)
    test_folders = _matching(train, test)
    train_classes = [_read_class(train_folder / name) for name in train.folders]
    test_classes = [_read_class(test_folder / name) for name in test_folders]
    left_out = sum(
        (found.left_out() for found in [*train_classes, *test_classes]),
        Counter(map(ending, [*train.others, *train.images, *test.others, *test.images])),
    )
    return Tree(train.folders, _list(root, train_classes), _list(root, test_classes), most_frequent(left_out))


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


def _split(folder: Path) -> Entries:
    """Return the entries of the folder of a split, which must contain two class folders."""
    found = read_entries(folder)
    if len(found.folders) < 2:
        raise DataError(f"{folder} needs a folder of images for each of 2 or more classes; found {found.described()}")
    return found


def _read_class(folder: Path) -> _Class:
    """Return the entries of a class folder, which must contain an image."""
    found = read_entries(folder)
    if not found.images:
        raise DataError(
            f"{folder} contains no image ({', '.join(image_endings())}); found {found.described()}: "
            "add images to this class, or delete its folder"
        )
    return _Class(found)


def _matching(train: Entries, test: Entries) -> list[str]:
    """Return the folder of test images of each training class.

    Names match if they differ only in their Unicode form: macOS writes é as two characters, Linux and Windows as one.
    """
    of_train, of_test = _by_composed_name(train), _by_composed_name(test)
    lacking = [
        f"{folder} lacks {len(missing)} ({quoted(missing)})"
        for folder, missing in (
            (test.path, [of_train[name] for name in sorted(of_train.keys() - of_test.keys())]),
            (train.path, [of_test[name] for name in sorted(of_test.keys() - of_train.keys())]),
        )
        if missing
    ]
    if lacking:
        raise DataError(
            f"{train.path} and {test.path} must have the same classes: {' and '.join(lacking)}; "
            "add, rename or delete these folders"
        )
    return [of_test[name] for name in of_train]


def _by_composed_name(split: Entries) -> dict[str, str]:
    """Return composed (NFC) class name -> name of its folder."""
    found: dict[str, str] = {}
    for folder in split.folders:
        name = unicodedata.normalize("NFC", folder)
        if name in found:
            raise DataError(
                f"two folders in {split.path} have names that differ only in their Unicode form, {found[name]!a} "
                f"and {folder!a}: put their images into one of them"
            )
        found[name] = folder
    return found


def _list(root: Path, classes: list[_Class]) -> Listing:
    names = [found.names(root) for found in classes]
    labels = torch.tensor([label for label, files in enumerate(names) for _ in files])
    return Listing(root, tuple(name for files in names for name in files), labels)


def first_image_side(data_dir: str) -> int:
    """Return the longer side of the first training image below `data_dir`, in pixels; reads only its header.

    Raises:
        DataError: there is no training image, or it cannot be decoded.
    """
    folder = _train_folder("folder", Path(data_dir))
    first = _read_class(folder / _split(folder).folders[0]).entries
    return image_side(first.path / first.images[0])
