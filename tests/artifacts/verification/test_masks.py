"""Edited and damaged masks are found by their counts, their hash or the weights."""

from __future__ import annotations

import json

import pytest

import verify_cases as cases
from pruneboard.records import store
from verify_cases import failed


def test_edited_mask_bits_are_caught(one):
    """A moved position keeps every count: it is found by the hash or, if that was edited too, by the weights."""
    cases.set_masks(one, cases.swap)
    assert failed(one) == {"mask.hash", "weights.mask"}
    cases.hash_masks(one)
    assert failed(one) == {"weights.mask"}


def test_an_added_mask_bit_is_caught_without_weights(one):
    """One more position changes the count of its layer."""
    cases.set_masks(one, lambda bits: bits.__setitem__(bits.argmin(), True))
    cases.hash_masks(one)
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"mask.counts"}


def test_a_record_without_a_mask_hash_is_not_disputed(one):
    """If the record has no hash of the masks, their counts are still checked and the hash is skipped."""
    record = cases.record_of(one)
    del record["mask_sha256"]
    (one / store.RUN).write_text(json.dumps(record))
    finding = cases.found(one, evaluate=False)
    assert finding.verdict == "spot-checked"
    assert "no mask_sha256" in cases.note(finding, "mask.hash")
    assert "mask.counts" in {check.name for check in finding.of("ok")}


@pytest.mark.parametrize("damage", cases.DAMAGES)
def test_damaged_masks_are_disputed(one, damage):
    """A truncated, random or irregular `mask.npz` fails the check of the file, and nothing hangs."""
    cases.damage(one / store.MASK, damage)
    assert failed(one, evaluate=False) == {"mask.file"}
