"""Files of an export: made aside, put in place together, and no other content overwritten unasked."""

from __future__ import annotations

import contextlib
import filecmp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruneboard.errors import StoreError, why
from pruneboard.records import store


@contextmanager
def together(folder: Path, *, force: bool) -> Iterator[Path]:
    """Give an empty folder to write into, and put its files into `folder` once the block has ended well.

    Args:
        folder: made where it is missing; left as it was where the block fails.
        force: replace files that are there with other content.

    Raises:
        StoreError: a file is there with other content and not `force`, or the disk refuses.
    """
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as made:
            yield Path(made)
            _publish(Path(made), folder, force=force)
    except OSError as error:
        raise StoreError(f"cannot write an export to {folder}: {why(error)}; choose another --out") from None
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # something was put into it
                folder.rmdir()


def _publish(made: Path, folder: Path, *, force: bool) -> None:
    new = [path for path in sorted(made.iterdir()) if not _equal(path, folder / path.name)]
    there = [path.name for path in new if os.path.lexists(folder / path.name)]
    if there and not force:
        raise StoreError(
            f"{folder} has {', '.join(there)} with other content: name another --out, or replace with --force"
        )
    for path in new:
        store.replace(folder / path.name, path.rename)


def _equal(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)
