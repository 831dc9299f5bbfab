"""Data sets stored as arrays: their content hash and statistics."""

from __future__ import annotations

import numpy as np
import torch

from data_cases import open_dataset, stored_pixels
from pruneboard.data.arrays import Arrays, from_arrays


def test_statistics_are_those_of_the_training_pool():
    """Mean and deviation equal numpy's over the training and validation pixels, without the test split."""
    digits = open_dataset(limit_train=300)
    pool = np.concatenate([stored_pixels(digits.train).numpy(), stored_pixels(digits.validation).numpy()]) / 255
    assert np.allclose(digits.mean, pool.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(digits.std, pool.std((0, 2, 3)), rtol=1e-9)


def test_the_content_hash_depends_on_the_limit():
    """A smaller training pool has another hash."""
    assert open_dataset(limit_train=100).sha256 != open_dataset(limit_train=101).sha256


def test_the_content_hash_does_not_depend_on_the_image_size():
    """It covers the stored images, so a resize that rounds differently on another machine cannot change it."""
    assert open_dataset(image_size=8).sha256 == open_dataset(image_size=32).sha256


def test_every_pixel_label_and_name_counts_in_the_content_hash():
    """One changed value in either split, or another class name, changes the hash."""

    def content(changed=""):
        halves = {
            part: Arrays(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
            for part in ("train", "test")
        }
        part, _, field = changed.partition(".")
        if field:
            getattr(halves[part], field).flatten()[-1] += 1
        classes = ("a", "b", "d" if changed == "classes" else "c")
        return from_arrays(classes, halves["train"], halves["test"], image_size=2, limit_train=None).sha256

    changes = ("", "classes", "train.pixels", "train.labels", "test.pixels", "test.labels")
    assert content() == content()
    assert len({content(changed) for changed in changes}) == len(changes)
