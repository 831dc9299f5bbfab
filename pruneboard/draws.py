"""Keyed randomness: every draw of a run is a pure function of a seed and the place where it is used.

Nothing is ever drawn from a stream that is carried along, so a resumed run, or one on another number
of processes, draws what the uninterrupted one would have drawn, and no generator state needs saving.
"""

from __future__ import annotations

import hashlib
import json


def key(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order.

    blake2b over the JSON of `parts`: stable across Python versions, processes and machines, which the
    built-in `hash` is not.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
