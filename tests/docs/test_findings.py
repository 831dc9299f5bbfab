"""Tests that every number in docs/findings.md follows from the committed records."""

from __future__ import annotations

import functools
import os
import re

from project import ROOT
from pruneboard.leaderboard import folders, stats
from pruneboard.report.tables import row_names

SIGNED = r"[+-]\d+\.\d\d"
CLAIM = re.compile(
    rf"\*\*({SIGNED}) \[({SIGNED}), ({SIGNED})\]\*\* \((?P<what>[^()]+ minus [^()]+), (?P<track>prune|supermask) "
    r"at (?P<point>0\.\d+), n = (?P<n>\d+)\)"
)
"""`**+1.23 [+0.45, +2.01]** (BOARD: ROW minus ROW, TRACK at 0.9, n = SEEDS)`; the second row can name another board."""

FINDINGS = ROOT / "docs" / "findings.md"


@functools.cache
def board(name, track):
    """Return the only board of a results folder on a track."""
    (found,) = (one for one in folders.compare([ROOT / "results" / name]) if one.track == track)
    return found


def row(name, track, method, point):
    """Return a row by its name in the tables, without the note that it is a control."""
    of = board(name, track)
    names = {identity: shown.partition(" (")[0] for identity, shown in row_names(of.rows).items()}
    (found,) = (one for one in of.rows if names[one.identity] == method and one.target in (None, point))
    return found


def difference(what, track, point):
    """Return the paired difference of two rows by seed. Rows of two boards must start with the same weights."""
    first, second = what.split(" minus ")
    first_board, left = first.split(": ")
    second_board, right = second.split(": ") if ": " in second else (first_board, second)
    a, b = row(first_board, track, left, point), row(second_board, track, right, point)
    ours, theirs = a.pairs(b) if first_board == second_board else (a.by_seed, b.by_seed)
    return stats.paired(dict(ours), dict(theirs))


def shown(estimate):
    """Return a difference as written on the page."""
    mean, low, high = (f"{100 * value:+.2f}" for value in (estimate.mean, estimate.low, estimate.high))
    return f"**{mean} [{low}, {high}]**"


def restated(claim):
    """Return a claim with the numbers from the records."""
    found = difference(claim["what"], claim["track"], float(claim["point"]))
    return f"{shown(found)} ({claim['what']}, {claim['track']} at {claim['point']}, n = {found.n})"


def test_findings_follow_from_the_records():
    """Each difference names its board, interval and n, and equals the one computed from the records."""
    text = FINDINGS.read_text(encoding="utf-8")
    new = CLAIM.sub(restated, text)
    if os.environ.get("PRUNEBOARD_WRITE_DOCS"):
        FINDINGS.write_text(new, encoding="utf-8")
    assert len(CLAIM.findall(text)) > 10
    assert new == text


def test_small_cifar_distinguishes_methods():
    """At .98, at least half of the pairs of methods have a paired interval that excludes 0."""
    rows = [one for one in board("cifar10-small", "prune").rows if one.target == 0.98]
    pairs = [(a, b) for index, a in enumerate(rows) for b in rows[:index]]
    apart = [found for a, b in pairs if (found := stats.paired(*a.pairs(b))).low > 0 or found.high < 0]
    assert len(pairs) == 28
    assert 2 * len(apart) >= len(pairs)
