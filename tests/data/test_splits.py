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
from pruneboard.data.splits import first_of_each_class, hold_out, limit_notes
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


def note_of(sizes, limit):
    """Return the notes about a limit of classes of these sizes."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    kept = labels[first_of_each_class(labels, limit)]
    return limit_notes([f"c{number}" for number in range(len(sizes))], labels, kept)


def test_a_limit_that_changes_the_shares_of_classes_is_said():
    """The note names the rule and the class whose share changes most, with both shares."""
    [note] = note_of([60, 30, 10], 30)
    assert note.startswith("--limit-train 30 keeps equally many images of each class as far as there are enough")
    assert "that of 'c0' from 60.0% to 33.3%" in note


@pytest.mark.parametrize(("sizes", "limit"), [([20, 20, 20], 7), ([60, 30, 10], None), ([142, 147, 145], 300)])
def test_a_limit_that_keeps_the_shares_is_not_mentioned(sizes, limit):
    """There is no note for balanced classes, without a limit, and for differences below one percent."""
    assert note_of(sizes, limit) == []


def test_the_note_about_a_limit_reaches_the_data_set(tmp_path):
    """An unbalanced tree that is limited has the note."""
    root = write_tree(tmp_path, 16)
    for file in sorted((root / "train" / "emu").iterdir())[2:]:
        file.unlink()
    assert open_tree(root).notes == ()
    assert "from 42.9% to 33.3%" in open_tree(root, limit_train=9).notes[0]
    assert open_dataset(limit_train=300).notes == ()
