"""Write the files of an export to a temporary folder, and move them to their place only if all of them succeeded."""

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
def staged(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends without an error, move its files to `folder`.

    Files whose content is already in `folder` are left alone there.

    Args:
        folder: created if it is missing; unchanged if the block fails.
        force: replace existing files whose content differs.

    Raises:
        StoreError: without `force`, the content of an existing file differs; or a file cannot be written.
    """
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as staging:
            yield Path(staging)
            _publish(Path(staging), folder, force=force)
    except OSError as error:
        raise StoreError(f"cannot write an export to {folder}: {why(error)}; choose another --out") from None
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # rmdir fails, as it should, if the folder now holds the export
                folder.rmdir()


def _publish(staging: Path, folder: Path, *, force: bool) -> None:
    new = [path for path in sorted(staging.iterdir()) if not _equal(path, folder / path.name)]
    existing = [path.name for path in new if os.path.lexists(folder / path.name)]
    if existing and not force:
        raise StoreError(
            f"{folder} has {', '.join(existing)} with other content: choose another --out, or replace with --force"
        )
    for path in new:
        store.replace(folder / path.name, path.rename)


def _equal(path: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(path, other, shallow=False)
