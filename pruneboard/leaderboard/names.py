"""What a row is called: the shortest name that tells it from the others of its board, as records have it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from pruneboard.leaderboard.model import Identity, Row


def names(rows: Iterable[Row]) -> dict[Identity, str]:
    """Return identity -> the shortest name that tells a row from the others of its board."""
    namesakes: dict[str, dict[Identity, Row]] = defaultdict(dict)
    for row in rows:
        namesakes[row.method].setdefault(row.identity, row)
    return {identity: _name(row, list(own.values())) for own in namesakes.values() for identity, row in own.items()}


def _name(row: Row, namesakes: list[Row]) -> str:
    parts = [row.method]
    if len({other.distribution for other in namesakes}) > 1:
        parts.append(row.distribution)
    if len({other.version for other in namesakes}) > 1:
        parts.append(row.version)
    parts += [f"{key}={value}" for key, value in sorted(row.options.items()) if _differs(key, namesakes)]
    if row.ablation:
        parts.append(row.ablation)
    if row.variant:
        parts.append(f"#{row.variant + 1}")
    if row.control in ("floor", "baseline"):
        parts.append(f"({row.control})")
    return " ".join(parts)


def _differs(option: str, namesakes: list[Row]) -> bool:
    return len({json.dumps(row.options.get(option), sort_keys=True) for row in namesakes}) > 1
