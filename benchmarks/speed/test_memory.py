"""Peak memory of each method compared with dense training, each measured in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

MASK = (8, "the mask and the effective weight")
METHODS = {
    "dense": ("prune", 0.5, [], (0, "")),
    "magnitude": ("prune", 0.9, [], MASK),
    "gmp": ("prune", 0.42, [], MASK),
    "random": ("prune", 0.5, [], MASK),
    "snip": ("prune", 0.5, [], MASK),
    "synflow": ("prune", 0.5, ["rounds=2"], MASK),
    "rigl": ("prune", 0.41, [], MASK),
    "str": ("prune", 0.5, [], (8, "the effective weight, and the mask that hardening fills")),
    "edge-popup": (
        "supermask",
        0.5,
        [],
        (8, "score, its gradient, its momentum and the effective weight, minus gradient and momentum of the weight"),
    ),
    "probmask": (
        "prune",
        0.5,
        [],
        (24, "probability, its gradient, two Adam moments, and in each pass the mask and the effective weight"),
    ),
}
"""Method -> track, fraction of the budget, options, and (bytes, reason) of its lower bound.

The lower bound is in bytes per weight beyond the twelve of dense training: weight, gradient and momentum.
"""


@cache
def peak(method: str) -> dict[str, int]:
    """Run `peak.py` on a method and return the JSON that it prints."""
    track, fraction, options, _ = METHODS[method]
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), method, track, str(fraction), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("method", METHODS)
def test_peak_memory(benchmark, method):
    """Two steps of a ResNet-18 at 32 px and batch 8: peak resident bytes beyond those before the network was built."""
    found = benchmark.pedantic(peak, args=[method], rounds=1)
    floor, why = METHODS[method][3]
    benchmark.extra_info |= {
        "section": "memory",
        "what": method,
        **found,
        "dense": peak("dense")["steps"],
        "floor": floor,
        "why": why,
    }
