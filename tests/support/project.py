"""Read the Markdown pages of the project."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def text(page="README.md"):
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language, page="README.md"):
    """The contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)
