"""The digits data set, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from data_cases import open_dataset, stored_pixels


def test_the_splits_are_all_1797_digits_as_square_rgb_images():
    """Every digit is in one split, as uint8 pixels of the requested size."""
    digits = open_dataset(image_size=24)
    splits = (digits.train, digits.validation, digits.test)
    assert sum(map(len, splits)) == 1797
    assert all(stored_pixels(split).shape == (len(split), 3, 24, 24) for split in splits)
    assert all(stored_pixels(split).dtype == torch.uint8 for split in splits)
    assert all(split.labels.dtype == torch.int64 and len(split.labels) == len(split) for split in splits)
    assert digits.classes == tuple("0123456789")
    assert (digits.image_size, digits.original_size) == (24, 8)


def test_the_test_digits_are_every_fifth_of_each_class():
    """In scikit-learn's order, each class's 5th, 10th, ... image is in the test split."""
    images, labels = load_digits(return_X_y=True)
    seen = dict.fromkeys(range(10), 0)
    expected = []
    for image, label in zip(images, labels, strict=True):
        seen[label] += 1
        if seen[label] % 5 == 0:
            expected.append((image.reshape(8, 8) * 255 / 16, label))
    test = open_dataset(image_size=8).test
    assert test.labels.tolist() == [label for _, label in expected]
    stored = np.stack([image for image, _ in expected])
    assert np.abs(stored_pixels(test).numpy() - stored[:, None]).max() <= 0.5
