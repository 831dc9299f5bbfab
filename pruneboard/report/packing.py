"""How much of a leaderboard one file can hold: parts in plain HTML first, then parts that are packed, then names only.

Packed parts are deflated several at a time, since they resemble each other, and unpacked by the browser.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

CHUNK = 200_000
"""Characters that are deflated together at least; the last ones may be fewer."""


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        key: its address within the page.
        title: what it is called where it is only named.
        track: `prune` or `supermask`, of a board.
        plain: its HTML, empty if it is packed or left out.
        item: what its heading is made of.
    """

    key: str
    title: str
    track: str = ""
    plain: Any = ""
    item: Any = None


@dataclass
class Room:
    """How many bytes are left, and what was packed into them.

    Attributes:
        plain: bytes left for HTML that is read as it stands.
        packed: bytes left for chunks.
        chunks: JSON lists of HTML texts, deflated, in base64.
        where: key -> number of its chunk, and its place in there.
        full: whether something had to be left out; nothing is added from then on.
    """

    plain: int
    packed: int
    chunks: list[str] = field(default_factory=list)
    where: dict[str, tuple[int, int]] = field(default_factory=dict)
    full: bool = False
    _waiting: list[tuple[str, str]] = field(default_factory=list)

    def holds_plain(self, key: str, text: str) -> bool:
        """Give `text` room as it stands, if there is any; else have it wait for the next chunk."""
        size = len(text.encode("utf-8"))
        if size <= self.plain:
            self.plain -= size
            return True
        self._waiting.append((key, text))
        if sum(len(text) for _, text in self._waiting) >= CHUNK:
            self.close()
        return False

    def close(self) -> None:
        """Pack what waits; it is left out if there is no room for it."""
        texts = json.dumps([text for _, text in self._waiting])
        chunk = base64.b64encode(zlib.compress(texts.encode("ascii"), 9)).decode("ascii")
        names = {key: (len(self.chunks), place) for place, (key, _) in enumerate(self._waiting)}
        self._waiting = []
        size = len(chunk) + len(json.dumps(names))
        if not names or size > self.packed:
            self.full |= bool(names)
            return
        self.packed -= size
        self.chunks.append(chunk)
        self.where |= names
