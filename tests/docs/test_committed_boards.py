"""Tests that the boards in `results/` follow from their records."""

from __future__ import annotations

import io
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from project import ROOT
from pruneboard import registry
from pruneboard.leaderboard import folders, literature
from pruneboard.records import store
from pruneboard.report import files
from pruneboard.sweeps import board_file

BOARDS = sorted(path.parent.name for path in (ROOT / "results").glob("*/leaderboard"))
"""Folders with a committed leaderboard next to their records."""

RESULTS = ROOT / "results"
MEASURED = sorted(p.stem for p in (ROOT / "benchmarks" / "boards").glob("*.toml") if (RESULTS / p.stem).is_dir())
"""Names of board files with committed records."""

DRAWN_BY = {"altair": "6.3.0", "vl-convert-python": "1.9.0.post1"}
"""Versions with which the committed pages and figures were drawn."""


@pytest.mark.parametrize("name", BOARDS)
def test_a_committed_board_is_rebuilt_byte_for_byte(name, tmp_path):
    """Tables, page and figures depend only on the records next to them.

    Other versions of the drawing packages have other fonts and scripts; with them, only the text files are compared. A
    PNG is its SVG drawn with the fonts of the machine, so PNGs can differ slightly at the edges of letters.
    """
    folder = ROOT / "results" / name
    out = folders.default_output([folder])
    leaderboard = folders.load([folder], published=literature.included(), out=out)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in files.write_leaderboard(leaderboard, tmp_path)}
    paths = [path for path in out.rglob("*") if path.is_file() and path.name != "verified.json"]
    committed = {path.relative_to(out): path.read_bytes() for path in paths}
    assert made.keys() == committed.keys()
    drawn_alike = all(metadata.version(package) == version for package, version in DRAWN_BY.items())
    compared = [path for path in made if drawn_alike or path.suffix in (".md", ".csv", ".json", ".tex")]
    assert len(compared) >= 4
    assert [str(path) for path in compared if not _same(made[path], committed[path])] == []


def _same(made, committed):
    """Return whether two files are equal, or PNGs of equal size in which at most one pixel in a hundred differs."""
    if made == committed or not made.startswith(b"\x89PNG"):
        return made == committed
    ours, theirs = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in (made, committed))
    return ours.shape == theirs.shape and float((ours != theirs).any(axis=2).mean()) <= 0.01


@pytest.mark.parametrize("name", MEASURED)
def test_a_committed_board_matches_its_board_file(name):
    """Every row of the board file has all its seeds, and there are no other runs."""
    described = board_file.load_board(ROOT / "benchmarks" / "boards" / f"{name}.toml")
    found = store.scan([ROOT / "results" / name])
    assert not found.problems
    assert {record["status"] for _, record in found.records} == {"done"}
    assert {record["seed"] for _, record in found.records} == set(described.seeds)
    assert {record["track"] for _, record in found.records} == set(described.tracks)
    targets = {(record["track"], record["sparsity"]["target"]) for _, record in found.records} - {("prune", None)}
    assert targets == {(track, point) for track, points in described.tracks.items() for point in points.sparsities}
    assert {record["method"]["name"] for _, record in found.records} == {entry.name for entry in described.methods}


def test_the_options_of_small_cifar_are_those_of_its_search():
    """Of the three sets of a method on a track, the one with the best validation (not test) top-1 was chosen."""
    chosen = board_file.load_board(ROOT / "benchmarks" / "boards" / "cifar10-small.toml")
    search = [record for _, record in store.scan([ROOT / "results" / "cifar10-small-search"]).records]
    tried = {}
    for record in search:
        tried.setdefault((record["method"]["name"], record["track"]), []).append(record)
    entries = [entry for entry in chosen.methods if entry.tuning.source]
    for entry in entries:
        info = registry.find(entry.name)
        for track in entry.tracks or (track for track in chosen.tracks if (entry.name, track) in tried):
            records = tried.pop((entry.name, track))
            assert len(records) == entry.tuning.trials == 3
            best = max(records, key=lambda record: record["metrics"]["validation"]["top1"])
            pruner = registry.build(info, 0.9, entry.options)
            assert best["method"]["options"] == {name: getattr(pruner, name) for name in best["method"]["options"]}
    assert set(tried) == {("dense", "prune")}
    assert {record["seed"] for record in search}.isdisjoint(chosen.seeds)
