"""Order, division among processes, augmentation and normalization of batches."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_cases import (
    CPU,
    NUMBERED,
    batch_plan,
    equal,
    global_draws,
    joined,
    numbered,
    open_dataset,
    seed_globals,
    steps,
)
from pruneboard import data, draws
from pruneboard.data import BatchPlan
from pruneboard.errors import UnknownNameError, UsageError


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [2, 4])
def test_the_micro_batches_of_all_ranks_are_the_global_batch(world, micro):
    """Concatenated over the ranks, micro-batches equal the batch of one process: images, crops, flips and labels."""
    whole = steps(NUMBERED, batch_plan())
    plans = [batch_plan(micro_batch=micro, world=world, rank=rank) for rank in range(world)]
    ranks = [list(data.train_batches(NUMBERED, each, epoch=0)) for each in plans]
    for i, expected in enumerate(whole):
        batches = [batch for rank in ranks for batch in rank[i]]
        assert len(batches) == 16 // micro
        assert all(images.shape == (micro, 3, 16, 16) for images, _ in batches)
        assert equal(joined(batches), expected)


def test_an_epoch_uses_each_image_at_most_once_and_drops_the_rest():
    """70 images in batches of 16 give four steps of 64 different images."""
    labels = torch.cat([labels for _, labels in steps(NUMBERED, batch_plan())])
    assert len(labels) == len(labels.unique()) == 64
    assert data.steps_per_epoch(NUMBERED, 16) == 4


def test_batches_are_float_images_and_integer_labels():
    """Images are float32 in channels-last memory format, labels int64."""
    images, labels = steps(NUMBERED, batch_plan())[0]
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_epochs_streams_and_seeds_have_different_orders():
    """The order depends on seed, stream and epoch; the augmentation seed changes crops only."""
    base = steps(NUMBERED, batch_plan())
    assert equal(base[0], steps(NUMBERED, batch_plan())[0])
    for other in (
        steps(NUMBERED, batch_plan(), epoch=1),
        steps(NUMBERED, batch_plan(), stream="other"),
        steps(NUMBERED, batch_plan(order_seed=9)),
    ):
        assert not torch.equal(base[0][1], other[0][1])
    recropped = steps(NUMBERED, batch_plan(augment_seed=9))
    assert torch.equal(base[0][1], recropped[0][1])
    assert not torch.equal(base[0][0], recropped[0][0])


def test_a_resumed_epoch_continues_with_the_same_batches():
    """Starting at step 2 returns steps 2 and 3 of the uninterrupted epoch."""
    whole, tail = steps(NUMBERED, batch_plan()), steps(NUMBERED, batch_plan(), start=2)
    assert len(tail) == 2
    assert all(equal(a, b) for a, b in zip(whole[2:], tail, strict=True))


def naive_epoch(dataset, plan, epoch):
    """Yield the images of an epoch, made one by one from the documented draws."""
    count, size = len(dataset.train), dataset.image_size
    order = torch.randperm(
        count, generator=torch.Generator().manual_seed(draws.key(plan.order_seed, "train", epoch))
    ).tolist()
    pad = size // 8
    for step in range(count // plan.batch_size):
        g = torch.Generator().manual_seed(draws.key(plan.augment_seed, "train", epoch, step))
        top, left = torch.randint(0, 2 * pad + 1, (2, plan.batch_size), generator=g)
        flip = torch.rand(plan.batch_size, generator=g) < 0.5
        for place in range(plan.batch_size):
            image = dataset.train.images.stored[order[step * plan.batch_size + place]].numpy()
            if plan.augment != "none":
                image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
                image = image[:, top[place] : top[place] + size, left[place] : left[place] + size]
            if plan.augment == "crop-flip" and flip[place]:
                image = image[:, :, ::-1]
            mean, std = np.array(dataset.mean)[:, None, None], np.array(dataset.std)[:, None, None]
            yield (image / 255 - mean) / std


@pytest.mark.parametrize("mode", ["none", "crop", "crop-flip"])
@pytest.mark.parametrize("size", [5, 16, 30])
def test_batches_equal_a_loop_over_images(mode, size):
    """Order, crop, flip and normalization equal a reference that loops over images."""
    dataset, plan = numbered(40, size), batch_plan(augment=mode, micro_batch=8)
    expected = np.stack(list(naive_epoch(dataset, plan, epoch=2)))
    found = torch.cat([images for images, _ in steps(dataset, plan, epoch=2)])
    assert np.allclose(found.numpy(), expected, atol=1e-5)


FEW = settings(max_examples=25, deadline=None)


@FEW
@given(count=st.integers(1, 40), world=st.integers(1, 5), batch_size=st.integers(1, 17))
def test_evaluation_uses_each_image_once_on_any_number_of_processes(count, world, batch_size):
    """No image is padded, repeated or dropped; rank r evaluates r, r + world, ... in order."""
    dataset = numbered(count, 8)
    seen = []
    for rank in range(world):
        batches = list(
            data.eval_batches(dataset.test, dataset, BatchPlan.for_evaluation(batch_size, CPU, rank=rank, world=world))
        )
        assert all(0 < len(labels) <= batch_size for _, labels in batches)
        labels = [label for _, labels in batches for label in labels.tolist()]
        assert labels == list(range(rank, count, world))
        seen += labels
    assert sorted(seen) == list(range(count))


def test_evaluation_normalizes_and_does_not_augment():
    """Evaluation images are (stored / 255 - mean) / std, computed in float64 to 1e-6."""
    images, labels = joined(data.eval_batches(NUMBERED.test, NUMBERED, BatchPlan.for_evaluation(32, CPU)))
    stored = NUMBERED.test.images.stored[labels].double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (NUMBERED.mean, NUMBERED.std))
    assert torch.allclose(images.double(), (stored - mean) / std, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_calibration_is_the_same_set_for_any_number_of_processes(world):
    """Over all ranks, 6 global batches of the calibration stream: 4 of its epoch 0, 2 of its epoch 1."""
    plans = [batch_plan(micro_batch=4, world=world, rank=rank) for rank in range(world)]
    ranks = [list(data.calibration_batches(NUMBERED, plan, 6)) for plan in plans]
    assert all(len(batches) == 6 * 4 // world for batches in ranks)
    expected = [*steps(NUMBERED, batch_plan(), stream="calibration")]
    expected += steps(NUMBERED, batch_plan(), stream="calibration", epoch=1)[:2]
    per_step = 4 // world
    for i, whole in enumerate(expected):
        parts = [batch for batches in ranks for batch in batches[i * per_step : (i + 1) * per_step]]
        assert equal(joined(parts), whole)


def test_calibration_draws_differ_from_those_of_training():
    """The first calibration batch differs from the first training batch."""
    images, _ = joined(data.calibration_batches(NUMBERED, batch_plan(), 1))
    assert not torch.equal(images, steps(NUMBERED, batch_plan())[0][0])


def test_the_order_hash_is_that_of_the_training_order():
    """It equals the SHA-256 of the labels of an epoch if labels are image numbers; rank and processes do not matter."""
    dataset, plan = numbered(64, 8), batch_plan()
    order = torch.cat([labels for _, labels in steps(dataset, plan, epoch=3)]).numpy().astype("<i8").tobytes()
    expected = hashlib.sha256(f"{len(order)}:".encode() + order).hexdigest()
    assert data.order_sha256(dataset, plan, epoch=3) == expected
    assert data.order_sha256(dataset, batch_plan(world=4, micro_batch=4, rank=3), epoch=3) == expected
    assert data.order_sha256(dataset, plan, epoch=4) != expected


def test_global_generators_do_not_change():
    """Opening, training, calibrating and evaluating leave the generators of random, numpy and torch unchanged."""
    seed_globals()
    expected = global_draws()
    seed_globals()
    digits = open_dataset(image_size=8, limit_train=100)
    steps(digits, batch_plan())
    list(data.calibration_batches(digits, batch_plan(), 2))
    list(data.eval_batches(digits.test, digits, BatchPlan.for_evaluation(50, CPU)))
    assert global_draws() == expected


def test_batches_on_a_gpu_equal_those_on_the_cpu(cuda):
    """Crops, flips and labels are equal, values agree to 1e-6, and the pixels are copied to the GPU once."""
    device = torch.device("cuda", 0)
    for on_cpu, on_gpu in zip(steps(NUMBERED, batch_plan()), steps(NUMBERED, batch_plan(device=device)), strict=True):
        assert on_gpu[0].device == on_gpu[1].device == device
        assert torch.allclose(on_cpu[0], on_gpu[0].cpu(), atol=1e-6)
        assert torch.equal(on_cpu[1], on_gpu[1].cpu())
    assert NUMBERED.train.images.on(device) is NUMBERED.train.images.on(device)


def test_a_split_smaller_than_a_batch_is_refused_with_both_numbers():
    """The message has the number of images, the batch size and the options to change."""
    with pytest.raises(UsageError, match=r"numbered has 70 images, fewer than one batch of 128: lower --batch-size"):
        data.train_batches(NUMBERED, batch_plan(batch_size=128), epoch=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 6}, "a multiple of micro_batch x processes, here of 6"),
        ({"world": 3, "micro_batch": 4}, "micro-batches of 4 for 3 processes.*here of 12"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2 processes"),
        ({"micro_batch": 0}, "cannot be divided"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(changes, message):
    """A plan needs equally many whole micro-batches for every process."""
    with pytest.raises(UsageError, match=message):
        batch_plan(**changes)


def test_an_unknown_augmentation_is_refused():
    """A misspelled augmentation is refused with a suggestion."""
    with pytest.raises(UnknownNameError, match="did you mean crop-flip"):
        batch_plan(augment="crop-flop")


def test_imagenet_augmentation_is_refused_for_images_in_memory():
    """It works on files; the message lists the augmentations for images in memory."""
    with pytest.raises(UsageError, match="numbered are in memory: choose none, crop or crop-flip"):
        data.train_batches(NUMBERED, batch_plan(augment="imagenet"), epoch=0)


def test_a_plan_cannot_be_changed():
    """Batch plans are frozen dataclasses."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch_plan().batch_size = 32
