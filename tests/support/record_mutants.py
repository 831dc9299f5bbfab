"""Mutants of valid records: every value replaced, damaged files, other encodings; the same for the same seed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pruneboard.artifacts.verification import consistency
from pruneboard.records import schema as records
from pruneboard.records.schema import Record

SEED = int(os.environ.get("PRUNEBOARD_FUZZ_SEED", "0"))

HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "/dev/zero",
    "=1+1",
    "\x1b[31m",
    "\u202e",
    "\x00",
    "\ud800",
    "a" * 999,
    "line\nline\r\u2028{x} %s {0.__class__}",
]
NUMBERS = [-1, 0, 2, 10**30, 10**400, 2**63, 1e308, -1e-320, 1e-320, -0.0, 0.5, 1.0, float("nan"), float("inf")]
VALUES: list[Any] = [None, True, False, [], {}, "", [[]], [0], {"a": {}}, {"": [None, {}]}, *NUMBERS, *HOSTILE]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a record; of each list, those of the first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def replace(made: Record, path: tuple[Any, ...], value: Any) -> Record:
    """Return a copy of a record with one value replaced."""
    made = json.loads(json.dumps(made))
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = copy.deepcopy(value)
    return made


def repair(made: Record) -> Record:
    """Make a mutant look valid: recompute fingerprint and content hash, unless its values do not allow it."""
    with contextlib.suppress(*consistency.MALFORMED, records.RecordError):
        made["board"]["fingerprint"] = records.fingerprint(made["board"])
    with contextlib.suppress(*consistency.MALFORMED, records.RecordError):
        made["hash"] = records.content_hash(consistency.hashed_fields(made))
    return made


def systematic(made: Record) -> list[Callable[[], Record]]:
    """Return, for each value in a record and each of `VALUES`, a function that makes the repaired mutant."""

    def mutant(path: tuple[Any, ...], value: Any) -> Record:
        return repair(replace(made, path, value))

    return [partial(mutant, path, value) for path in places(made) for value in VALUES]


def several(made: Record, draw: random.Random) -> Record:
    """Return a record with one to three values replaced, dropped or renamed."""
    made = json.loads(json.dumps(made))
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(list(places(made)))
        parent = made
        for key in path[:-1]:
            parent = parent[key]
        if draw.random() < 0.2:
            del parent[path[-1]]
        elif isinstance(parent, dict) and draw.random() < 0.2:
            parent[draw.choice(HOSTILE)] = parent.pop(path[-1])
        else:
            parent[path[-1]] = copy.deepcopy(draw.choice(VALUES))
    return repair(made) if draw.random() < 0.7 else made


def changed(made: Record, draw: random.Random) -> bytes:
    """Return the text of such a record."""
    return json.dumps(several(made, draw)).encode()


def nested(made: Record, draw: random.Random) -> bytes:
    """Return a record with a deeply nested value."""
    deep = draw.choice(["[", '{"a":']) * draw.choice([40, 900, 100_000])
    return json.dumps(made)[:-1].encode() + b', "deep": ' + deep.encode()


def encoded(made: Record, draw: random.Random) -> bytes:
    """Return a record in another encoding, or with bytes that are invalid in it."""
    text = json.dumps(made | {"note": "é\ud800"}, ensure_ascii=draw.random() < 0.5)
    return text.encode(draw.choice(["utf-16", "utf-8-sig", "utf-32"]), "surrogatepass")


def damaged(made: Record, draw: random.Random) -> bytes:
    """Return a record that is truncated, has random bytes, or occurs twice in one file."""
    data = bytearray(json.dumps(made).encode())
    how = draw.randrange(3)
    if how == 0:
        return bytes(data[: draw.randrange(len(data))])
    if how == 1:
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data)
    return bytes(data + data)


_WAYS: dict[Callable[[Record, random.Random], bytes], int] = {changed: 16, damaged: 2, encoded: 1, nested: 1}


def mutate(made: Record, draw: random.Random) -> bytes:
    """Return the bytes of a random mutant."""
    (way,) = draw.choices(list(_WAYS), list(_WAYS.values()))
    return way(made, draw)
