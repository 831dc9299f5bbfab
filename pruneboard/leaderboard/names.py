"""Row names: the shortest name that distinguishes a row from the others of its board."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    names: dict[RowIdentity, str] = {}
    for own in by_method.values():
        differing = _differing(list(own.values()))
        names |= {identity: _name(row, differing) for identity, row in own.items()}
    return names


def method_name(method: str, distribution: str) -> str:
    """Return the name of a method with the distribution that provides it, if that is not pruneboard's own."""
    return method if distribution == OWN_DISTRIBUTION else f"{method} {distribution}"


@dataclass(frozen=True)
class _Differing:
    """What differs between the rows of one method. It is found once for all of them: they can be thousands."""

    distribution: bool
    version: bool
    options: Collection[str]


def _differing(rows: Sequence[Row]) -> _Differing:
    values: dict[str, set[str]] = defaultdict(set)
    present: Counter[str] = Counter()
    for row in rows:
        for key, value in row.options.items():
            values[key].add(json.dumps(value, sort_keys=True))
            present[key] += 1
    # A missing option counts as null.
    options = {key for key, found in values.items() if len(found | {"null"} if present[key] < len(rows) else found) > 1}
    return _Differing(len({row.distribution for row in rows}) > 1, len({row.version for row in rows}) > 1, options)


def _name(row: Row, differing: _Differing) -> str:
    parts = [method_name(row.method, row.distribution)]
    if row.distribution == OWN_DISTRIBUTION and differing.distribution:
        parts.append(row.distribution)
    if differing.version:
        parts.append(row.version)
    parts += [f"{key}={value}" for key, value in sorted(row.options.items()) if key in differing.options]
    if row.ablation:
        parts.append(row.ablation)
    if row.variant:
        parts.append(f"#{row.variant + 1}")
    if row.control in ("floor", "baseline"):
        parts.append(f"({row.control})")
    return " ".join(parts)
