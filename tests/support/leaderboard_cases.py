"""Leaderboards for tests, and the content of a page as a browser would read it."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from typing import Any

import fake_records as records
from pruneboard import leaderboard
from pruneboard.leaderboard import Board, Curve, Leaderboard, Published, Row, RunEntry
from pruneboard.records.schema import Record, validate

VOID = {"meta", "br", "input", "img", "hr", "link"}
HOSTILE = "<script>alert(1)</script>"


def only_board(*made: Record) -> Board:
    """Return the one board of some records."""
    (board,) = leaderboard.build_boards(map(validate, made))
    return board


def row_of(board: Board, method: str, target: float = 0.9) -> Row:
    """Return the one row of a method at a sparsity."""
    (row,) = (row for row in board.rows if (row.method, row.target) == (method, target))
    return row


def curve_of(board: Board, method: str) -> Curve:
    """Return the one curve of a method."""
    (curve,) = (curve for curve in board.curves if curve.rows[0].method == method)
    return curve


def full_board(points: tuple[float, ...] = (0.5, 0.75, 0.9375), seeds: int = 4, **change: Any) -> list[Record]:
    """Return the records of a complete board: dense, both other controls, and a method better than them."""
    made = [records.record("dense", None, seed, 0.9, **change) for seed in range(seeds)]
    for point in points:
        made += [records.record("probmask", point, seed, 0.85, **change) for seed in range(seeds)]
        made += [records.record("magnitude", point, seed, 0.8 + seed / 1000, **change) for seed in range(seeds)]
        made += [records.record("random", point, seed, 0.5, **change) for seed in range(seeds)]
    return made


def whole(made: list[Record], **fields: Any) -> Leaderboard:
    """Return the leaderboard of some records, with the details of all runs."""
    runs = tuple(RunEntry(path=f"results/{record['hash'][:8]}/run.json", record=record) for record in made)
    boards = tuple(leaderboard.build_boards(made))
    values: dict[str, Any] = {
        "boards": boards,
        "standings": leaderboard.build_standings(boards),
        "runs": runs,
        "total": len(made),
    } | fields
    return Leaderboard(**values)


def ladder(method: str, seeds: int = 3, drop: float = 0.01, **changes: Any) -> list[Record]:
    """Return records of one method at three operating points, with decreasing accuracy."""
    return [
        records.record(method, point, seed, 0.93 - drop * step - 0.001 * seed, **changes)
        for step, point in enumerate((0.5, 0.9, 0.98))
        for seed in range(seeds)
    ]


def dense(seeds: int = 3, **changes: Any) -> list[Record]:
    """Return records of dense runs."""
    return [records.record("dense", None, seed, 0.94 - 0.001 * seed, **changes) for seed in range(seeds)]


def rich() -> Leaderboard:
    """Return a leaderboard with everything that a page can show."""
    made = [*dense(6), *ladder("probmask", 6, 0.002), *ladder("magnitude", 6, 0.02), *ladder("random", 2, 0.1)]
    made += [records.record("str", 0.9, 0, 0.9, method__traits__hits_target=False)]
    made += [records.record("gmp", 0.9, seed, 0.5, "diverged") for seed in range(2)]
    made += ladder(HOSTILE, 1)
    made += [*dense(2, board__steps=300), *ladder("probmask", 2, board__steps=300)]
    supermask = {"track": "supermask", "board__track": "supermask", "cost__storage_bits": {"total": 9000}}
    made += [*ladder("edge-popup", 2, **supermask), *ladder("random", 2, 0.1, **supermask)]
    entry = Published(
        method="GMP",
        dataset="digits",
        model="resnet20_cifar",
        sparsity=0.9,
        top1=0.91,
        top1_sd=None,
        dense_top1=0.93,
        track="prune",
        source="a paper",
        place="table 1",
        note="",
    )
    board = whole(made, problems=(("results/broken/run.json", "it is no JSON"),))
    verdicts = {record["hash"]: "certified" if record["seed"] else "disputed" for record in made[:6]}
    places = {one.fingerprint: (entry,) for one in board.boards if one.track == "prune"}
    return Leaderboard(**(vars(board) | {"verdicts": verdicts, "published": places}))


class Reader(HTMLParser):
    """The elements of a page and their texts, as a browser would parse them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def text(self) -> str:
        """Return all text outside scripts and styles."""
        return " ".join(" ".join(data for where, data in self.texts if not {"script", "style"} & set(where)).split())

    def blocks(self) -> dict[str, Any]:
        """Return id -> value of the page's JSON elements."""
        found = {}
        kinds = [attributes for tag, attributes in self.elements if tag == "script"]
        scripts = [data for where, data in self.texts if where and where[-1] == "script"]
        for attributes, data in zip(kinds, scripts, strict=True):
            if attributes.get("type") == "application/json" and (key := attributes.get("id")):
                found[key] = json.loads(data)
        return found


def decompressed(page: str) -> dict[str, str]:
    """Return key -> HTML of the compressed parts of a page."""
    found = {}
    for store in Reader(page).blocks()["compressed"]:
        chunks = [json.loads(zlib.decompress(base64.b64decode(chunk))) for chunk in store["chunks"]]
        found |= {key: chunks[chunk][index] for key, (chunk, index) in store["positions"].items()}
    return found
