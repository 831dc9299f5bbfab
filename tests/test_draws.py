"""Keys of random numbers: stable, sensitive to every part, and valid as seeds."""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.draws import key

PARTS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=6), max_size=5)


def test_keys_never_change():
    """Keys are part of the protocol: other values would change every recorded run."""
    assert key() == 4090036724241674979
    assert key(0, "init") == 6291500876198751163
    assert key(1, "gate", 2, 0, 3) == 368470275037251564


def test_keys_are_equal_in_every_process():
    """A key does not depend on the salt of Python's `hash`, which differs between processes."""
    code = "from pruneboard.draws import key; print(key(7, 'order', 3))"
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) == key(7, "order", 3)


@given(PARTS, PARTS)
@settings(deadline=None, max_examples=100)
def test_different_parts_give_different_keys(one, other):
    """A key depends on every part with its type and its position; equal parts give equal keys."""
    same = one == other
    assert (key(*one) == key(*other)) is same


@given(PARTS)
@settings(deadline=None, max_examples=50)
def test_a_key_seeds_a_generator(parts):
    """A key has 63 bits, which torch accepts unchanged."""
    number = key(*parts)
    assert 0 <= number < 2**63
    assert torch.Generator().manual_seed(number).initial_seed() == number


def test_the_boundaries_of_parts_count():
    """A key depends on where one part ends and the next begins, and 1 differs from "1"."""
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("a", "b", "c"), key(1, 2), key("1", 2), key(12)}) == 7
