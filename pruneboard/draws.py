"""Keyed random numbers: every draw of a run is a pure function of its seed and of the place where it is used.

No generator is carried from one draw to the next. A run that was resumed, or that has a different number of processes,
therefore draws the same numbers as an uninterrupted one, and checkpoints contain no generator state.
"""

from __future__ import annotations

import hashlib
import json


def key(*parts: int | str) -> int:
    """Return the seed for one purpose: a number of 63 bits that depends on every part and on their order.

    It is computed with blake2b from the JSON of `parts`, because Python's `hash` of a text differs between processes.

    Args:
        parts: what identifies the draw, such as the run's seed, a name and a step: `key(seed, "gate", step, layer)`.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
