"""Tests how parts of the page are divided into plain HTML, compressed chunks and left-out parts."""

from __future__ import annotations

import base64
import json
import zlib

from pruneboard.report import size_budget


def test_a_budget_is_not_exceeded():
    """Parts that do not fit as plain HTML are compressed; if this does not fit either, the budget is full."""
    budget = size_budget.SizeBudget(10, 100)
    assert budget.fits_plain("a", "ä" * 5)
    assert not budget.fits_plain("b", "x")
    budget.flush()
    assert budget.positions == {"b": (0, 0)}
    assert not budget.full
    assert not budget.fits_plain("c", "".join(map(chr, range(300, 3000))))
    budget.flush()
    assert budget.full
    assert "c" not in budget.positions


def test_chunks_decompress_to_the_parts():
    """The position of a part is the index of its chunk and its index within the chunk."""
    budget = size_budget.SizeBudget(0, 10**6)
    texts = {f"part-{number}": f"{number} ä<" * size_budget.CHUNK for number in range(3)} | {"last": "x"}
    for key, text in texts.items():
        assert not budget.fits_plain(key, text)
    budget.flush()
    chunks = [json.loads(zlib.decompress(base64.b64decode(chunk))) for chunk in budget.chunks]
    assert {key: chunks[chunk][index] for key, (chunk, index) in budget.positions.items()} == texts
    assert len(chunks) == 4


def test_parts_are_compressed_together():
    """Similar parts below the size of a chunk form one chunk, much smaller than the parts."""
    budget = size_budget.SizeBudget(0, 10**6)
    for number in range(50):
        budget.fits_plain(str(number), f"{number}" + "the same table " * 100)
    budget.flush()
    assert len(budget.chunks) == 1
    assert 10**6 - budget.compressed < 50 * 1500 / 20


def test_flushing_without_parts_changes_nothing():
    """An empty chunk would have no content and would use bytes."""
    budget = size_budget.SizeBudget(10, 10)
    budget.flush()
    assert (budget.chunks, budget.compressed, budget.full) == ([], 10, False)
