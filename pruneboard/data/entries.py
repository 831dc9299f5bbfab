"""Reads one folder of a tree of images: `read_entries`. Hidden entries (`._a.png`, `.DS_Store`) are ignored."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pruneboard.errors import DataError

_SHOWN = 3  # names listed in a message
_LISTED, _LONGEST, _OTHER = 15, 16, "other"  # limits of what a record lists: number of endings, and their length


@dataclass(frozen=True)
class Entries:
    """The visible entries of a folder, by kind; each list of names is sorted.

    Attributes:
        path: the folder.
        folders: names of its folders.
        images: names of the files whose ending is read.
        others: names of all other files.
    """

    path: Path
    folders: tuple[str, ...]
    images: tuple[str, ...]
    others: tuple[str, ...]

    def described(self) -> str:
        """Return what is in the folder, for a message: `2 folders ('a', 'b'), 5 .png`."""
        files = Counter(map(ending, (*self.images, *self.others)))
        count = f"{len(self.folders):,} folders" if self.folders[1:] else "1 folder"
        folders = f"{count} ({quoted(self.folders)})" if self.folders else ""
        return ", ".join(filter(None, (folders, counted(files)))) or "nothing"


def image_endings() -> tuple[str, ...]:
    """Return the endings of file names that are read, in lower case: those of torchvision."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def read_entries(folder: Path) -> Entries:
    """Read the names in a folder.

    Raises:
        DataError: the folder cannot be read, or a visible entry is a dangling link or neither a file nor a folder.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; make it readable, or choose another") from None
    folders = {entry.name for entry in entries if _is_folder(entry)}
    files = [entry.name for entry in entries if entry.name not in folders]
    read = image_endings()
    images = tuple(name for name in files if name.lower().endswith(read))
    others = tuple(name for name in files if not name.lower().endswith(read))
    return Entries(folder, tuple(sorted(folders)), images, others)


def hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, such as `.ipynb_checkpoints` or macOS's `._cat.png`."""
    return name.startswith(".")


def subfolder(folder: Path, name: str) -> Path | None:
    """Return a folder in `folder`, or None if there is none of this name.

    Raises:
        DataError: it is a dangling link.
    """
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    return path if stat.S_ISDIR(_mode(path)) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():  # the common case needs no system call
        if entry.is_dir():
            return True
        if entry.is_file():
            return False
    mode = _mode(Path(entry.path))
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(f"{entry.path} is neither a file nor a folder: delete it")
    return stat.S_ISDIR(mode)


def _mode(path: Path) -> int:
    """Return the mode of a file or folder; follows links."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            raise DataError(
                f"{path} is a link to {path.readlink()}, which cannot be followed ({error.strerror}): "
                "restore what it points to, or delete it"
            ) from None
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable, or delete it") from None


def count_files(folder: Path) -> Counter[str]:
    """Return the number of visible files in a folder and its subfolders, by ending."""
    found: Counter[str] = Counter()
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not hidden(name)]
        found.update(ending(name) for name in files if not hidden(name))
    return found


def most_frequent(files: Mapping[str, int]) -> dict[str, int]:
    """Return the endings with the most files; the files with any other ending are counted as `other`."""
    listed = sorted((name for name in files if name != _OTHER), key=lambda name: (-files[name], name))[:_LISTED]
    rest = sum(count for name, count in files.items() if name not in listed)
    return {name: files[name] for name in listed} | ({_OTHER: rest} if rest else {})


def ending(name: str) -> str:
    """Return the ending of a file name in lower case, or `other` unless it is a few plain letters and digits."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= _LONGEST else _OTHER


def counted(files: Mapping[str, int]) -> str:
    """Return the number of files of each ending, most frequent first: `9 .gif, 1 .txt`."""
    shown = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix}" for suffix, count in shown[:_SHOWN]) + (", ..." if shown[_SHOWN:] else "")


def quoted(names: Iterable[str]) -> str:
    """Return the first names in quotes, in which invisible characters are escaped."""
    names = list(names)
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if names[_SHOWN:] else "")
