"""docs/speed.md is generated from the measurements, and contains every bound of the project."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "benchmarks" / "speed"
MEASURED = json.loads((SPEED / "measured.json").read_text(encoding="utf-8"))

METHODS = ("magnitude", "gmp", "random", "snip", "synflow", "rigl")
BOUNDS = [
    ("a", "step, resnet32_cifar, batch 128", "bare PyTorch loop", "cost", 1.05),
    *(("b", f"{method}, resnet32_cifar, batch 128", "a dense step", "cost", 1.05) for method in METHODS),
    ("b", "str, resnet32_cifar, batch 128", "a dense step", "cost", 1.10),
    ("b", "edge-popup, resnet32_cifar, batch 128", "a dense step", "cost", 1.25),
    ("b", "probmask, resnet32_cifar, batch 128, every", "two dense passes", "cost", 1.05),
    ("b", "probmask, resnet32_cifar, batch 128, half-way", "two dense passes", "cost", 1.05),
    ("b", "probmask, resnet18, stock stem, 32 px, batch 8, no", "official formula", "gain", 2.0),
    ("b", "probmask, resnet50, stock stem, 32 px, batch 8, no", "official formula", "gain", 2.0),
    ("b", "probmask, resnet18, stock stem, 32 px, batch 8, a search to .9", "official formula", "gain", 3.0),
    ("b", "probmask, resnet50, stock stem, 32 px, batch 8, a search to .9", "official formula", "gain", 3.0),
    ("c", "projection, 2 M", "21 halvings", "gain", 1.0),
    ("c", "projection, 25 M", "21 halvings", "gain", 3.0),
    ("d", "crop, flip, normalize", "DataLoader with 2 workers", "gain", 10.0),
    ("e", "pruneboard --help", "python -c pass", "seconds", 0.3),
    ("e", "pruneboard list", "python -c pass", "seconds", 0.3),
    ("e", "pruneboard compare DIR --format none", "python -c pass", "seconds", 0.3),
]
"""The bounds of the project: section, prefix of the row's name, part of its reference, kind, bound."""


@pytest.fixture(scope="module")
def maker():
    """`benchmarks/speed/page.py`."""
    spec = importlib.util.spec_from_file_location("speed_page", SPEED / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    """`benchmarks/speed/rows.py`."""
    spec = importlib.util.spec_from_file_location("speed_rows", SPEED / "rows.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["speed_rows"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["speed_rows"]


def test_the_page_is_generated_from_the_measurements(maker):
    """Every number in the tables of the page is from `measured.json`."""
    text = maker.PAGE.read_text(encoding="utf-8")
    assert maker.page(text, MEASURED) == text
    assert len(re.findall("<!-- measured: ", text)) == len(maker._PARTS)


@pytest.mark.parametrize(("section", "what", "against", "kind", "bound"), BOUNDS)
def test_every_bound_has_a_row(section, what, against, kind, bound):
    """Each bound applies to exactly one row, whether the row meets it or not."""
    [row] = [
        row
        for row in MEASURED["rows"]
        if row["section"] == section and row["what"].startswith(what) and against in row["against"]
        if row["bound"] is not None
    ]
    assert (row["kind"], row["bound"]) == (kind, bound)


def test_no_row_has_another_bound():
    """The page has no bounds other than those listed here."""
    assert sum(row.get("bound") is not None for row in MEASURED["rows"]) == len(BOUNDS)


@pytest.mark.parametrize(("kind", "value"), [("cost", 0.5), ("gain", 2.0), ("seconds", 2.0)])
def test_a_value_is_the_median_over_rounds(rows, kind, value):
    """For rounds of 1, 2 and 9 s against 2, 4 and 3 s, the median ratio is 0.5 and our median time 2 s."""
    row = rows.Row(section="a", what="", against="", kind=kind)
    ours, reference = [1.0, 2.0, 9.0], [2.0, 4.0, 3.0]
    low, high = row.interval(ours, reference)
    assert row.value(ours, reference) == value
    assert low <= value <= high


def test_several_states_are_summed(rows):
    """Over several states of a run, the value is the ratio of total times, not the mean of the ratios."""
    row = rows.Row(section="b", what="", against="", kind="gain", states=2)
    assert row.value([1.0, 1.0, 3.0, 3.0], [10.0, 10.0, 6.0, 6.0]) == 4.0


def test_rates_are_per_unit(rows):
    """Twice as many units as the reference in the same time is a gain of 2."""
    row = rows.Row(section="d", what="", against="", kind="gain", ours_units=100, reference_units=50)
    assert row.value([1.0], [1.0]) == 2.0
