"""Limiting a training pool, and holding out its validation images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_cases import (
    CPU,
    SMALL,
    batch_plan,
    error_line,
    numbered,
    open_dataset,
    open_tree,
    steps,
    stored_pixels,
    write_tree,
)
from pruneboard.data.splits import first_of_each_class, hold_out
from pruneboard.errors import DataError

FEW = settings(max_examples=30, deadline=None)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@FEW
@given(labels=LABELS, limit=st.integers(1, 70))
def test_the_limit_keeps_the_first_images_of_each_class(labels, limit):
    """The limit equals dealing one image to each class in turn, first images first, until it is reached."""
    queues = [(labels == label).nonzero().flatten().tolist() for label in range(5)]
    dealt = []
    while any(queues):
        dealt += [queue.pop(0) for queue in queues if queue]
    assert first_of_each_class(labels, limit).tolist() == sorted(dealt[:limit])


def test_a_limit_above_the_pool_keeps_everything():
    """No limit, or one above the number of images, keeps the whole pool."""
    labels = torch.tensor([0, 1, 1, 0])
    assert first_of_each_class(labels, 9).tolist() == first_of_each_class(labels, None).tolist() == [0, 1, 2, 3]


@FEW
@given(labels=LABELS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_validation_has_the_rounded_fraction_of_each_class(labels, fraction, seed):
    """Each class gives round(fraction x n) images: at least one if it has two, and never all; no image is lost."""
    sizes = torch.bincount(labels).tolist()
    if max(sizes) < 2:
        with pytest.raises(DataError, match="no class has 2"):
            hold_out(labels, fraction, seed)
        return
    train, validation = hold_out(labels, fraction, seed)
    assert sorted(train.tolist() + validation.tolist()) == list(range(len(labels)))
    held = torch.bincount(labels[validation], minlength=len(sizes)).tolist()
    for size, found in zip(sizes, held, strict=True):
        assert found == (min(max(round(fraction * size), 1), size - 1) if size else 0)


@FEW
@given(labels=LABELS, seed=st.integers(0, 9))
def test_the_same_seed_gives_the_same_division(labels, seed):
    """The division is a function of labels and seed; global generators have no influence."""
    if torch.bincount(labels).max() < 2:
        return
    first = hold_out(labels, 0.3, seed)
    torch.rand(1)
    again = hold_out(labels, 0.3, seed)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_split_seed_changes_the_split_and_nothing_else():
    """Another seed holds out other images of the same pool; content hash, test split and class counts stay."""
    one, other = open_dataset(split_seed=1), open_dataset(split_seed=2)
    assert one.split_sha256 != other.split_sha256
    assert one.sha256 == other.sha256
    assert torch.equal(stored_pixels(one.test), stored_pixels(other.test))
    assert torch.equal(torch.bincount(one.train.labels), torch.bincount(other.train.labels))


def test_one_image_per_class_leaves_nothing_to_validate(tmp_path):
    """The message says how to get a validation split."""
    root = write_tree(tmp_path, SMALL)
    assert "raise --limit-train, or add images" in error_line(lambda: open_tree(root, limit_train=3))


def test_stored_pixels_are_neither_copied_nor_changed():
    """On the CPU no copy is made, and training batches do not change the stored pixels."""
    dataset = numbered(32, 8)
    before = dataset.train.images.stored.clone()
    steps(dataset, batch_plan())
    assert dataset.train.images.on(CPU) is dataset.train.images.stored
    assert torch.equal(dataset.train.images.stored, before)
