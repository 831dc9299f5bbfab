"""The boards in `results/`: they stand on their records."""

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
"""Committed boards: those with a leaderboard beside their records."""

RESULTS = ROOT / "results"
MEASURED = sorted(p.stem for p in (ROOT / "benchmarks" / "boards").glob("*.toml") if (RESULTS / p.stem).is_dir())
"""Board files with records, a leaderboard beside them or not."""

DRAWN_BY = {"altair": "6.3.0", "vl-convert-python": "1.9.0.post1"}
"""What drew the committed pages and figures."""


@pytest.mark.parametrize("name", BOARDS)
def test_a_committed_board_is_rebuilt_byte_for_byte(name, tmp_path):
    """Tables, page and figures are made of the records beside them and of nothing else.

    Other versions of the packages that draw have other fonts and scripts: there, what is text is compared. A PNG is its
    SVG with the fonts of the machine, which are not the same everywhere: pictures may differ at the edges of letters.
    """
    folder = ROOT / "results" / name
    place = folders.default_output([folder])
    whole = folders.load([folder], published=literature.included(), out=place)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in files.write_leaderboard(whole, tmp_path)}
    there = {
        p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != "verified.json"
    }
    assert made.keys() == there.keys()
    drawn_alike = all(metadata.version(package) == version for package, version in DRAWN_BY.items())
    compared = [path for path in made if drawn_alike or path.suffix in (".md", ".csv", ".json", ".tex")]
    assert len(compared) >= 4
    assert [str(path) for path in compared if not _same(made[path], there[path])] == []


def _same(made, there):
    """Whether two files are the same bytes, or pictures of one size of which at most one pixel in a hundred differs."""
    if made == there or not made.startswith(b"\x89PNG"):
        return made == there
    ours, theirs = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in (made, there))
    return ours.shape == theirs.shape and float((ours != theirs).any(axis=2).mean()) <= 0.01


@pytest.mark.parametrize("name", MEASURED)
def test_a_committed_board_is_the_one_of_its_file(name):
    """Every row of the board file is there with every seed, and nothing else is."""
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
    """Of the three sets tried for a method on a track, the one with the highest validation top-1; test is not asked."""
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
