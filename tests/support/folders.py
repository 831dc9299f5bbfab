"""What is in a folder."""

from __future__ import annotations

from pathlib import Path


def files_below(folder: Path) -> list[str]:
    """Return the relative path of every file and folder below `folder`, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
