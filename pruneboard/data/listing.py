"""Lists trees of image files with one folder per class, and reports what is missing.

The expected tree is DIR/train/<class>/* and DIR/test/<class>/* or DIR/val/<class>/*. Tiny-ImageNet is read as it is
downloaded: DIR/train/<class>/images/*, and DIR/val/images/* with their classes in DIR/val/val_annotations.txt.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruneboard.data.annotations import IMAGES, annotation_file, is_unlabeled, read_annotations
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
        unlabeled: folders that could be the test split, but have images without classes.
    """

    classes: tuple[str, ...]
    train: Listing
    test: Listing
    left_out: Mapping[str, int]
    unlabeled: tuple[Path, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know about files that are not read, in lines of text."""
        used = Path(self.test.names[0]).parts[0]
        skipped = [
            f"folder {folder.name} has images without classes and is not used; the test split is folder {used}"
            for folder in self.unlabeled
        ]
        return (*skipped, *self._left_out_notes())

    def _left_out_notes(self) -> list[str]:
        if not self.left_out:
            return []
        count = sum(self.left_out.values())
        verb = "1 file is" if count == 1 else f"{count:,} files are"
        read = ", ".join(image_endings())
        note = f"{verb} left out: {counted(self.left_out)}; in each class folder, files that end in {read} are read"
        return [note]


@dataclass(frozen=True)
class _Class:
    """The files of one class in one split.

    Attributes:
        folder: the folder of its images.
        images: their names, sorted.
        left_out: number of visible files that are not read, by ending.
    """

    folder: Path
    images: Sequence[str]
    left_out: Counter[str]


@dataclass(frozen=True)
class _Split:
    """The folder of one split.

    Attributes:
        entries: what is in it.
        annotated: class -> names of its images, if they are all in one folder; None if the split has class folders.
    """

    entries: Entries
    annotated: dict[str, list[str]] | None = None

    @property
    def path(self) -> Path:
        """The folder."""
        return self.entries.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return self.entries.folders if self.annotated is None else tuple(self.annotated)

    def read(self, name: str) -> _Class:
        """Return the files of a class."""
        if self.annotated is None:
            return _read_class(self.path / name)
        return _Class(self.path / IMAGES, self.annotated[name], Counter())

    def left_out(self) -> Counter[str]:
        """Return the number of visible files outside the classes, by ending."""
        if self.annotated is None:
            return Counter(map(ending, (*self.entries.others, *self.entries.images)))
        return _beside(read_entries(self.path / IMAGES)) + Counter(map(ending, self.entries.images))


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
    train = _class_folders(_train_folder(name, root, test_names))
    test, unused = _test_split(root, test_names)
    folders = _matching(train, test)
    train_classes = [train.read(name) for name in train.classes]
    test_classes = [test.read(name) for name in folders]
    left_out = sum((found.left_out for found in (*train_classes, *test_classes)), train.left_out() + test.left_out())
    return Tree(
        train.classes, _list(root, train_classes), _list(root, test_classes), most_frequent(left_out), tuple(unused)
    )


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


def _test_split(root: Path, names: tuple[str, ...]) -> tuple[_Split, list[Path]]:
    """Return the first folder of `names` that has classes, and the folders before it, whose images have none."""
    unlabeled: list[Path] = []
    for name in names:
        folder = subfolder(root, name)
        if folder is None:
            continue
        entries = read_entries(folder)
        if is_unlabeled(entries):
            unlabeled.append(folder)
            continue
        file = annotation_file(entries)
        if file is None:
            return _class_folders(folder), unlabeled
        return _Split(entries, read_annotations(file, read_entries(folder / IMAGES))), unlabeled
    if unlabeled:
        return _class_folders(unlabeled[0]), []
    found = read_entries(root).described()
    raise DataError(f"{root} has no folder {' or '.join(names)} of test images; found {found}; {_expected_tree(names)}")


def _class_folders(folder: Path) -> _Split:
    """Return a split with a folder for each class; it must have at least two."""
    found = read_entries(folder)
    if len(found.folders) < 2:
        raise DataError(f"{folder} needs a folder of images for each of 2 or more classes; found {found.described()}")
    return _Split(found)


def _read_class(folder: Path) -> _Class:
    """Return the files of a class folder: the images in it, or in its folder `images` if there are none."""
    entries = read_entries(folder)
    inner = entries if entries.images or IMAGES not in entries.folders else read_entries(folder / IMAGES)
    if not inner.images:
        raise DataError(
            f"{inner.path} contains no image ({', '.join(image_endings())}); found {inner.described()}: "
            "add images to this class, or delete its folder"
        )
    left_out = _beside(entries) if inner is entries else _beside(inner) + _beside(entries, IMAGES)
    return _Class(inner.path, inner.images, left_out)


def _beside(entries: Entries, used: str = "") -> Counter[str]:
    """Return the number of files beside the images of a folder, also in subfolders other than `used`, by ending."""
    below = (count_files(entries.path / name) for name in entries.folders if name != used)
    return sum(below, Counter(map(ending, entries.others)))


def _matching(train: _Split, test: _Split) -> list[str]:
    """Return the name in `test` of each training class.

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


def _by_composed_name(split: _Split) -> dict[str, str]:
    """Return composed (NFC) name -> name of each class."""
    found: dict[str, str] = {}
    for folder in split.classes:
        name = unicodedata.normalize("NFC", folder)
        if name in found:
            raise DataError(
                f"two classes in {split.path} have names that differ only in their Unicode form, {found[name]!a} "
                f"and {folder!a}: put their images into one of them"
            )
        found[name] = folder
    return found


def _list(root: Path, classes: list[_Class]) -> Listing:
    folders = [found.folder.relative_to(root).as_posix() for found in classes]
    names = [[f"{folder}/{name}" for name in found.images] for folder, found in zip(folders, classes, strict=True)]
    labels = torch.tensor([label for label, files in enumerate(names) for _ in files])
    return Listing(root, tuple(name for files in names for name in files), labels)


def first_image_side(data_dir: str) -> int:
    """Return the longer side of the first training image below `data_dir`, in pixels; reads only its header.

    Raises:
        DataError: there is no training image, or it cannot be decoded.
    """
    folder = _train_folder("folder", Path(data_dir))
    first = _read_class(folder / _class_folders(folder).classes[0])
    return image_side(first.folder / first.images[0])
