"""Row names: the shortest name that distinguishes a row from the others of its board."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

from pruneboard.leaderboard.model import Row, RowIdentity
from pruneboard.leaderboard.rows import OWN_DISTRIBUTION

RowNames = Mapping[RowIdentity, str]


def short_names(rows: Iterable[Row]) -> dict[RowIdentity, str]:
    """Return identity -> shortest unique name.

    Version and options are part of a name only if rows of the same method differ in them. So is the distribution
    `pruneboard`; any other distribution always is. Names contain text from records as it is; see
    `report.tables.row_names` for printable names.
    """
    by_method: dict[str, dict[RowIdentity, Row]] = defaultdict(dict)
    for row in rows:
        by_method[row.method].setdefault(row.identity, row)
    return {identity: _name(row, list(own.values())) for own in by_method.values() for identity, row in own.items()}


def method_name(method: str, distribution: str) -> str:
    """Return the name of a method with the distribution that provides it, if that is not pruneboard's own."""
    return method if distribution == OWN_DISTRIBUTION else f"{method} {distribution}"


def _name(row: Row, same_method: list[Row]) -> str:
    parts = [method_name(row.method, row.distribution)]
    if row.distribution == OWN_DISTRIBUTION and len({other.distribution for other in same_method}) > 1:
        parts.append(row.distribution)
    if len({other.version for other in same_method}) > 1:
        parts.append(row.version)
    parts += [f"{key}={value}" for key, value in sorted(row.options.items()) if _differs(key, same_method)]
    if row.ablation:
        parts.append(row.ablation)
    if row.variant:
        parts.append(f"#{row.variant + 1}")
    if row.control in ("floor", "baseline"):
        parts.append(f"({row.control})")
    return " ".join(parts)


def _differs(option: str, rows: list[Row]) -> bool:
    return len({json.dumps(row.options.get(option), sort_keys=True) for row in rows}) > 1
