"""Limits the size of the page: parts that do not fit as plain HTML are compressed, and the rest is left out.

Several parts are compressed together, because they resemble each other. The browser decompresses them when they are
shown (`decompress` in `assets/page.js`).
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

CHUNK = 200_000
"""Smallest number of characters that are compressed together; the last chunk can be smaller."""


@dataclass(frozen=True)
class PagePart:
    """A part of the page: a board or the record of a run.

    Attributes:
        key: its `id` in the page.
        title: its name in lists of parts.
        track: `prune` or `supermask`, for a board.
        html: its content; empty if it is compressed or left out.
        item: data of its heading.
    """

    key: str
    title: str
    track: str = ""
    html: Any = ""
    item: Any = None


@dataclass
class SizeBudget:
    """The number of bytes that are left for parts of one kind, and the parts that were compressed into them.

    Attributes:
        plain: bytes left for plain HTML.
        compressed: bytes left for chunks.
        chunks: JSON lists of HTML texts, deflated, in base64.
        positions: key -> index of its chunk, and index within the chunk.
        full: whether something was left out. Nothing is added from then on.
    """

    plain: int
    compressed: int
    chunks: list[str] = field(default_factory=list)
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    full: bool = False
    _waiting: list[tuple[str, str]] = field(default_factory=list)

    def fits_plain(self, key: str, text: str) -> bool:
        """Return whether `text` fits as plain HTML, and count it; otherwise add it to the next chunk."""
        size = len(text.encode("utf-8"))
        if size <= self.plain:
            self.plain -= size
            return True
        self._waiting.append((key, text))
        if sum(len(text) for _, text in self._waiting) >= CHUNK:
            self.flush()
        return False

    def flush(self) -> None:
        """Compress the waiting parts to a chunk, or leave them out if the chunk does not fit."""
        texts = json.dumps([text for _, text in self._waiting])
        chunk = base64.b64encode(zlib.compress(texts.encode("ascii"), 9)).decode("ascii")
        positions = {key: (len(self.chunks), index) for index, (key, _) in enumerate(self._waiting)}
        self._waiting = []
        size = len(chunk) + len(json.dumps(positions))
        if not positions or size > self.compressed:
            self.full |= bool(positions)
            return
        self.compressed -= size
        self.chunks.append(chunk)
        self.positions |= positions
