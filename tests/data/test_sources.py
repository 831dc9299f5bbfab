"""Opening data sets by name, the cache of the last one, and the override."""

from __future__ import annotations

import shutil

import pytest
import torch

from data_cases import SMALL, open_dataset, open_tree, stored_pixels, stream_plan, write_tree
from pruneboard import data
from pruneboard.errors import DataError, UnknownNameError


def test_only_images_enlarged_at_least_twofold_count_as_synthetic():
    """Digits at their own size are real small images; at 16 pixels and more they are enlarged."""
    assert [open_dataset(image_size=size).synthetic_scale for size in (8, 12, 16, 32)] == [False, False, True, True]


def test_opening_twice_gives_the_same_data_set():
    """Pixels, labels, statistics and both hashes are functions of the arguments."""
    first, second = open_dataset(limit_train=200), open_dataset(limit_train=200)
    assert (first.mean, first.std, first.sha256, first.split_sha256) == (
        second.mean,
        second.std,
        second.sha256,
        second.split_sha256,
    )
    assert torch.equal(stored_pixels(first.train), stored_pixels(second.train))
    assert torch.equal(first.train.labels, second.train.labels)


def test_an_unknown_data_set_is_refused_with_a_suggestion():
    """A misspelled name is refused with the name that was probably meant."""
    with pytest.raises(UnknownNameError, match=r"cifra10.*did you mean cifar10"):
        open_dataset("cifra10")


def test_a_cached_folder_is_read_once(small):
    """In the cache, later calls do not need its files, whatever they hold out; after the block they do."""
    with data.dataset_cache():
        first = open_tree(small)
        shutil.rmtree(small)
        assert open_tree(small) is first
        other = open_tree(small, split_seed=1)
    assert (other.sha256, other.train.images) == (first.sha256, first.train.images)
    assert other.split_sha256 != first.split_sha256
    with pytest.raises(DataError):
        open_tree(small)


def test_a_cached_data_set_equals_a_fresh_one(small):
    """Hashes, statistics, labels and batches are the same."""
    fresh = open_tree(small, split_seed=1)
    with data.dataset_cache():
        open_tree(small)
        kept = open_tree(small, split_seed=1)
    assert (kept.sha256, kept.split_sha256, kept.mean, kept.std) == (
        fresh.sha256,
        fresh.split_sha256,
        fresh.mean,
        fresh.std,
    )
    assert kept.train.labels.tolist() == fresh.train.labels.tolist()
    assert all(
        torch.equal(one[0], two[0])
        for one, two in zip(
            *(next(data.train_batches(opened, stream_plan(augment="none"), epoch=0)) for opened in (kept, fresh)),
            strict=True,
        )
    )


def test_only_the_last_data_set_is_cached(small, tmp_path):
    """Opening another data set removes the first one from the cache."""
    with data.dataset_cache():
        open_tree(small)
        open_tree(write_tree(tmp_path / "other", SMALL))
        shutil.rmtree(small)
        with pytest.raises(DataError):
            open_tree(small)


def test_an_override_is_opened_until_its_block_ends(small, tmp_path):
    """It replaces every data set, also one that does not exist; an error ends it too, and it is never cached."""
    noise = open_tree(write_tree(tmp_path / "noise", SMALL))
    before = open_tree(small)
    with data.dataset_cache():
        with data.override_dataset(noise):
            assert open_tree(small) is noise
            assert open_tree("nowhere", "cifar10") is noise
            with data.override_dataset(before):
                assert open_tree(small) is before
            assert open_tree(small) is noise
        assert open_tree(small).sha256 == before.sha256
    with pytest.raises(ZeroDivisionError), data.override_dataset(noise):
        raise ZeroDivisionError
    assert open_tree(small).sha256 == before.sha256
