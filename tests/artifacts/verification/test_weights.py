"""Edited and damaged weights are found by their hash, their zeros or the masks."""

from __future__ import annotations

import pytest

import verify_cases as cases
from pruneboard.records import store
from verify_cases import edit, failed


def test_an_edited_count_of_zeros_is_caught(one):
    """A higher sparsity, consistent in every sum, is found by the weights or by the bound on kept zeros."""
    cases.set_counts(one, {5: {"nonzero": -2}})
    assert failed(one) == {"weights.counts", "weights.mask"}
    cases.set_counts(one, {5: {"nonzero": -100}})
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"record.sparsity"}


def test_a_kept_count_that_misses_the_budget_is_caught(one):
    """Fewer kept positions than n - round(sparsity * n) contradict the target sparsity, which the hash covers."""
    cases.set_counts(one, {5: {"nonzero": -100, "kept": -100}})
    assert {"record.sparsity", "mask.counts"} <= failed(one)


def test_counts_moved_between_layers_are_caught(one):
    """If all sums are equal but layers differ, masks and weights are still counted layer by layer."""
    cases.set_counts(one, {5: {"nonzero": -7, "kept": -7}, 6: {"nonzero": 7, "kept": 7}})
    assert failed(one) == {"mask.counts", "weights.counts"}
    (one / store.WEIGHTS).unlink()
    assert failed(one) == {"mask.counts"}


def test_edited_weights_are_caught(one):
    """Edited weights are found by their hash or, if that was edited too, by the scores."""
    cases.set_weights(one, cases.double)
    assert failed(one) == {"weights.hash"}
    cases.hash_weights(one)
    assert failed(one) >= {"evaluation.test", "evaluation.validation"}


def test_a_moved_weight_is_caught(one):
    """One zero that became a weight and one weight that became zero are found by the masks, even under a new hash."""
    cases.set_weights(one, cases.move)
    cases.hash_weights(one)
    assert failed(one) == {"weights.mask"}


def test_a_record_without_a_hash_is_disputed(one):
    """A finished run whose record has no hash of its weights proves nothing about them."""
    edit(one, weights_sha256=None)
    assert failed(one, evaluate=False) == {"weights.hash"}


@pytest.mark.parametrize("damage", cases.DAMAGES)
def test_damaged_weights_are_disputed(one, damage):
    """A truncated, random or irregular `model.safetensors` fails the check of the file, and nothing hangs."""
    cases.damage(one / store.WEIGHTS, damage)
    assert failed(one, evaluate=False) == {"weights.file"}


def test_a_header_that_would_fill_the_memory_is_not_read(one):
    """A file that announces a header of more than 8 MiB is disputed before its tensors are listed."""
    names = ",".join(f'"{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(200_000))
    header = f"{{{names}}}".encode()
    (one / store.WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert cases.failed(one) == {"weights.file"}
    assert f"its header has {len(header)} bytes" in cases.note(cases.found(one), "weights.file")
