"""Data sets of noise."""

from __future__ import annotations

import torch

from data_cases import CPU, LARGE, batch_plan, joined, steps, stream_plan
from pruneboard import data
from pruneboard.data.noise import DISTINCT, noise_dataset


def test_small_noise_is_in_memory_and_repeatable(tmp_path):
    """Small images are uint8 pixels of the requested size, the same in every call, and no file is written."""
    first, again = (
        noise_dataset("cifar10", classes=10, count=40, side=32, image_size=16, folder=tmp_path) for _ in range(2)
    )
    assert first.train.images.stored.shape == (40, 3, 16, 16)
    assert torch.equal(first.train.images.stored, again.train.images.stored)
    assert torch.bincount(first.train.labels).tolist() == [4] * 10
    assert (len(first.classes), first.name, first.train.streams) == (10, "cifar10", False)
    assert list(tmp_path.iterdir()) == []
    assert [len(labels) for _, labels in steps(first, batch_plan())] == [16, 16]


def test_large_noise_streams_from_a_few_files(tmp_path):
    """Large images are `DISTINCT` files that the listing repeats; they train and evaluate like real ones."""
    noise = noise_dataset("imagenet", classes=3, count=40, side=LARGE, image_size=16, folder=tmp_path)
    assert noise.train.streams
    assert len(noise.train.images) == 40
    assert len(list(tmp_path.iterdir())) == len(set(noise.train.images.names)) == DISTINCT
    assert [images.shape for images, _ in steps(noise, stream_plan())] == [(8, 3, 16, 16)] * 5
    plan = data.BatchPlan.for_evaluation(16, CPU, workers=0)
    assert joined(data.eval_batches(noise.test, noise, plan))[1].tolist() == noise.test.labels.tolist()


def test_noise_counts_as_enlarged_where_the_real_images_would(tmp_path):
    """Stored images of 8 px shown at 16 px are synthetic, as `digits` are; at 8 px they are not."""
    made = [noise_dataset("digits", classes=10, count=4, side=8, image_size=s, folder=tmp_path) for s in (8, 16)]
    assert [dataset.synthetic_scale for dataset in made] == [False, True]
