"""Reads splits whose images are in one folder and whose classes are in a text file, as in Tiny-ImageNet's `val`.

`val/images/` holds the images; a line of `val/val_annotations.txt` is the name of a file, a tab and its class; further
columns (a bounding box) are ignored.
"""

from __future__ import annotations

from pathlib import Path

from pruneboard.data.entries import Entries, read_entries
from pruneboard.errors import DataError

IMAGES = "images"
"""Name of the folder of images, beside annotations and also inside the class folders of Tiny-ImageNet."""


def annotation_file(split: Entries) -> Path | None:
    """Return the annotation file of a split, or None if the split has class folders."""
    name = f"{split.path.name}_annotations.txt"
    return split.path / name if split.folders == (IMAGES,) and name in split.others else None


def is_unlabeled(split: Entries) -> bool:
    """Return whether a split has images but no classes, as Tiny-ImageNet's `test`."""
    if annotation_file(split) or set(split.folders) - {IMAGES}:
        return False
    return bool(split.images or (split.folders and read_entries(split.path / IMAGES).images))


def read_annotations(file: Path, images: Entries) -> dict[str, list[str]]:
    """Return the names of the images of each class, both sorted.

    Args:
        file: the annotation file.
        images: the folder of images.

    Raises:
        DataError: the file cannot be read, has a line of another form, or does not list exactly the images.
    """
    classes = _parse(file)
    _check_complete(file, images, classes)
    found: dict[str, list[str]] = {name: [] for name in sorted(set(classes.values()))}
    for image in images.images:
        found[classes[image]].append(image)
    return found


def _parse(file: Path) -> dict[str, str]:
    """Return image -> class."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; make it readable") from None
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        image, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        if not image or not label:
            raise DataError(f"{file}, line {number}: expected FILE, a tab and CLASS; found {line[:80]!r}; correct it")
        if classes.setdefault(image, label) != label:
            raise DataError(
                f"{file}, line {number}: {image!r} is of class {label!r}, and of class {classes[image]!r} before; "
                "delete one of these lines"
            )
    return classes


def _check_complete(file: Path, images: Entries, classes: dict[str, str]) -> None:
    for missing, what in (
        (sorted(classes.keys() - set(images.images)), f"lists {{}} images that are not in {images.path}"),
        (sorted(set(images.images) - classes.keys()), f"does not list {{}} images in {images.path}"),
    ):
        if missing:
            raise DataError(
                f"{file} {what.format(len(missing))}, the first is {missing[0]!r}: restore the files of the download"
            )
