"""How batches are ordered, cut, augmented and normalized."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard import data, draws
from pruneboard.data import BatchPlan, augment
from pruneboard.data.splits import Dataset, Pixels, Split
from pruneboard.errors import UnknownNameError, UsageError

CPU = torch.device("cpu")
FEW = settings(max_examples=25, deadline=None)


def make_dataset(count=70, size=16):
    """Return a data set whose label is the image's own number, so that batches show which images they hold."""
    pixels = torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    split = Split.of_all(Pixels(pixels), torch.arange(count))
    return Dataset(
        name="numbered",
        classes=tuple(str(i) for i in range(count)),
        image_size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        train=split,
        validation=split.select(torch.arange(0)),
        test=split,
        sha256="",
        split_sha256="",
        synthetic_scale=False,
        original_size=size,
    )


NUMBERED = make_dataset()


def plan(**changes):
    """Return a plan for one process, unless `changes` says otherwise."""
    fields = {
        "batch_size": 16,
        "micro_batch": 16,
        "rank": 0,
        "world": 1,
        "augment": "crop-flip",
        "order_seed": 3,
        "augment_seed": 4,
        "device": CPU,
    }
    return data.BatchPlan(**{**fields, **changes})


def joined(batches):
    """Return the images and labels of many micro-batches as one batch."""
    batches = list(batches)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def same(one, other):
    """Tell whether two batches are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def steps(dataset, cut, **where):
    """Return an epoch's optimizer steps, each as one batch."""
    return [joined(step) for step in data.train_batches(dataset, cut, epoch=where.pop("epoch", 0), **where)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [2, 4])
def test_processes_share_the_global_batch_that_one_process_would_see(world, micro):
    """Laid end to end, the ranks' micro-batches equal the one-process batch: images, crops, flips, labels."""
    whole = steps(NUMBERED, plan())
    ranks = [
        list(data.train_batches(NUMBERED, plan(micro_batch=micro, world=world, rank=r), epoch=0)) for r in range(world)
    ]
    for i, expected in enumerate(whole):
        batches = [batch for rank in ranks for batch in rank[i]]
        assert len(batches) == 16 // micro
        assert all(images.shape == (micro, 3, 16, 16) for images, _ in batches)
        assert same(joined(batches), expected)


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest():
    """70 images in batches of 16 make four steps of 64 different images."""
    labels = torch.cat([labels for _, labels in steps(NUMBERED, plan())])
    assert len(labels) == len(labels.unique()) == 64
    assert data.steps_per_epoch(NUMBERED, 16) == 4


def test_batches_are_float_images_and_whole_number_labels():
    """The dtypes and the memory layout are those every model expects."""
    images, labels = steps(NUMBERED, plan())[0]
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_epochs_streams_and_seeds_have_orders_of_their_own():
    """Order is keyed by seed, stream and epoch; crops by the augmentation seed alone."""
    base = steps(NUMBERED, plan())
    assert same(base[0], steps(NUMBERED, plan())[0])
    for other in (
        steps(NUMBERED, plan(), epoch=1),
        steps(NUMBERED, plan(), stream="other"),
        steps(NUMBERED, plan(order_seed=9)),
    ):
        assert not torch.equal(base[0][1], other[0][1])
    recropped = steps(NUMBERED, plan(augment_seed=9))
    assert torch.equal(base[0][1], recropped[0][1])
    assert not torch.equal(base[0][0], recropped[0][0])


def test_a_resumed_epoch_is_the_tail_of_the_whole_one():
    """Starting at step 2 gives what steps 2 and 3 of the uninterrupted epoch gave."""
    whole, tail = steps(NUMBERED, plan()), steps(NUMBERED, plan(), start=2)
    assert len(tail) == 2
    assert all(same(a, b) for a, b in zip(whole[2:], tail, strict=True))


def naive_epoch(dataset, cut, epoch):
    """Return an epoch made image by image, from the description alone."""
    count, size = len(dataset.train), dataset.image_size
    order = torch.randperm(
        count, generator=torch.Generator().manual_seed(draws.key(cut.order_seed, "train", epoch))
    ).tolist()
    pad = size // 8
    for step in range(count // cut.batch_size):
        g = torch.Generator().manual_seed(draws.key(cut.augment_seed, "train", epoch, step))
        top, left = torch.randint(0, 2 * pad + 1, (2, cut.batch_size), generator=g)
        flip = torch.rand(cut.batch_size, generator=g) < 0.5
        for place in range(cut.batch_size):
            image = dataset.train.images.stored[order[step * cut.batch_size + place]].numpy()
            if cut.augment != "none":
                image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
                image = image[:, top[place] : top[place] + size, left[place] : left[place] + size]
            if cut.augment == "crop-flip" and flip[place]:
                image = image[:, :, ::-1]
            mean, std = np.array(dataset.mean)[:, None, None], np.array(dataset.std)[:, None, None]
            yield (image / 255 - mean) / std


@pytest.mark.parametrize("mode", ["none", "crop", "crop-flip"])
@pytest.mark.parametrize("size", [5, 16, 30])
def test_batches_equal_a_naive_epoch_made_image_by_image(mode, size):
    """Order, crop, flip and normalization equal a reference that loops over images."""
    dataset, cut = make_dataset(40, size), plan(augment=mode, micro_batch=8)
    expected = np.stack(list(naive_epoch(dataset, cut, epoch=2)))
    found = torch.cat([images for images, _ in steps(dataset, cut, epoch=2)])
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_the_crop_reaches_every_offset_and_both_sides():
    """Offsets run from 0 to twice the padding, about half of the images are mirrored."""
    drawn = augment.draw("crop-flip", 4000, 32, seed=5)
    assert sorted(drawn.top.unique().tolist()) == sorted(drawn.left.unique().tolist()) == list(range(9))
    assert 0.45 < drawn.flip.float().mean() < 0.55


@FEW
@given(count=st.integers(1, 40), world=st.integers(1, 5), batch_size=st.integers(1, 17))
def test_evaluation_sees_each_image_once_for_any_number_of_processes(count, world, batch_size):
    """Nothing is padded, repeated or dropped; rank r sees r, r + world, ... in order."""
    dataset = make_dataset(count, 8)
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
    """Images arrive as torchvision's normalize makes them from the stored pixels."""
    images, labels = joined(data.eval_batches(NUMBERED.test, NUMBERED, BatchPlan.for_evaluation(32, CPU)))
    stored = NUMBERED.test.images.stored[labels].double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (NUMBERED.mean, NUMBERED.std))
    assert torch.allclose(images.double(), (stored - mean) / std, atol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_calibration_is_the_same_set_for_any_number_of_processes(world):
    """Over all ranks, 6 global batches of the calibration stream: 4 of its first epoch, 2 of its second."""
    cuts = [plan(micro_batch=4, world=world, rank=rank) for rank in range(world)]
    ranks = [list(data.calibration_batches(NUMBERED, cut, 6)) for cut in cuts]
    assert all(len(batches) == 6 * 4 // world for batches in ranks)
    expected = [*steps(NUMBERED, plan(), stream="calibration")]
    expected += steps(NUMBERED, plan(), stream="calibration", epoch=1)[:2]
    per_step = 4 // world
    for i, whole in enumerate(expected):
        parts = [batch for batches in ranks for batch in batches[i * per_step : (i + 1) * per_step]]
        assert same(joined(parts), whole)


def test_calibration_sees_other_draws_than_training():
    """The stream is one of its own."""
    images, _ = joined(data.calibration_batches(NUMBERED, plan(), 1))
    assert not torch.equal(images, steps(NUMBERED, plan())[0][0])


def test_the_order_hash_is_of_the_order_that_training_walks():
    """It equals the sha256 of the labels an epoch delivers where the label is the image's number."""
    dataset, cut = make_dataset(64, 8), plan()
    order = torch.cat([labels for _, labels in steps(dataset, cut, epoch=3)]).numpy().astype("<i8").tobytes()
    expected = hashlib.sha256(f"{len(order)}:".encode() + order).hexdigest()
    assert data.order_sha256(dataset, cut, epoch=3) == expected
    assert data.order_sha256(dataset, plan(world=4, micro_batch=4, rank=3), epoch=3) == expected
    assert data.order_sha256(dataset, cut, epoch=4) != expected


def global_draws():
    """Draw from every global generator."""
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the one under test


def seed_globals():
    """Put every global generator at a known place."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the one under test
    torch.manual_seed(1)


def test_global_generators_are_left_alone():
    """Opening, training, calibrating and evaluating leave random, numpy and torch where they were."""
    seed_globals()
    expected = global_draws()
    seed_globals()
    digits = data.open_dataset(
        "digits", data_dir=None, download=False, image_size=8, val_fraction=0.1, limit_train=100, split_seed=0
    )
    steps(digits, plan())
    list(data.calibration_batches(digits, plan(), 2))
    list(data.eval_batches(digits.test, digits, BatchPlan.for_evaluation(50, CPU)))
    assert global_draws() == expected


def test_pixels_are_kept_where_they_are_and_not_changed():
    """On the CPU no copy is made, and augmentation leaves the stored pixels as they were."""
    dataset = make_dataset(32, 8)
    before = dataset.train.images.stored.clone()
    steps(dataset, plan())
    assert dataset.train.images.on(CPU) is dataset.train.images.stored
    assert torch.equal(dataset.train.images.stored, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_the_batches_that_the_cpu_gets():
    """The same crops, flips and labels, normalized alike; the pixels are copied there once."""
    device = torch.device("cuda", 0)
    for on_cpu, on_gpu in zip(steps(NUMBERED, plan()), steps(NUMBERED, plan(device=device)), strict=True):
        assert on_gpu[0].device == on_gpu[1].device == device
        assert torch.allclose(on_cpu[0], on_gpu[0].cpu(), atol=1e-6)
        assert torch.equal(on_cpu[1], on_gpu[1].cpu())
    assert NUMBERED.train.images.on(device) is NUMBERED.train.images.on(device)


def test_a_split_smaller_than_a_batch_is_refused_with_both_numbers():
    """The message names the images there are, the batch asked for, and what to change."""
    with pytest.raises(UsageError, match=r"numbered has 70 images, less than one batch of 128: lower --batch-size"):
        data.train_batches(NUMBERED, plan(batch_size=128), epoch=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 6}, "a multiple of micro_batch x processes, here of 6"),
        ({"world": 3, "micro_batch": 4}, "micro-batches of 4 for 3 processes.*here of 12"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2 processes"),
        ({"micro_batch": 0}, "cannot be divided"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(changes, message):
    """A plan exists only where every process gets the same number of whole micro-batches."""
    with pytest.raises(UsageError, match=message):
        plan(**changes)


def test_an_unknown_augmentation_is_refused():
    """A misspelt mode is answered with the one that was meant."""
    with pytest.raises(UnknownNameError, match="did you mean crop-flip"):
        plan(augment="crop-flop")


def test_imagenet_augmentation_is_refused_for_images_in_memory():
    """It works on files; the message lists what in-memory images can have."""
    with pytest.raises(UsageError, match="numbered are in memory: choose none, crop or crop-flip"):
        data.train_batches(NUMBERED, plan(augment="imagenet"), epoch=0)


def test_a_plan_cannot_be_changed():
    """Plans are frozen: what was recorded is what is used."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().batch_size = 32


def delivered_by_formula(dataset, cut, epoch, step):
    """Return a batch as padding, indexing every crop and normalizing channel by channel give it: on a GPU they do."""
    order = torch.randperm(
        len(dataset.train), generator=torch.Generator().manual_seed(draws.key(cut.order_seed, "train", epoch))
    )
    images = dataset.train.images.stored[order[step * cut.batch_size :][: cut.batch_size]]
    key = draws.key(cut.augment_seed, "train", epoch, step)
    drawn = augment.draw(cut.augment, cut.batch_size, dataset.image_size, key)
    if drawn is not None:
        padded = torch.nn.functional.pad(images, (drawn.pad,) * 4)
        windows = padded.unfold(2, dataset.image_size, 1).unfold(3, dataset.image_size, 1)
        crops = windows[torch.arange(len(images)), :, drawn.top, drawn.left]
        images = torch.where(drawn.flip[:, None, None, None], crops.flip(3), crops)
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in (dataset.mean, dataset.std))
    return images.float().div_(255).sub_(mean).div_(std)


@FEW
@given(
    mode=st.sampled_from(["none", "crop", "crop-flip"]),
    size=st.sampled_from([1, 7, 8, 24, 33]),
    batch=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_fast_batches_hold_the_same_bits(mode, size, batch, epoch):
    """What a CPU copies row by row and normalizes row by row is, bit for bit, what the plain formula gives."""
    dataset = make_dataset(count=2 * batch, size=size)
    cut = plan(augment=mode, batch_size=batch, micro_batch=batch)
    for step, [(images, _)] in enumerate(data.train_batches(dataset, cut, epoch=epoch)):
        assert torch.equal(images.view(torch.int32), delivered_by_formula(dataset, cut, epoch, step).view(torch.int32))
        assert images.permute(0, 2, 3, 1).is_contiguous()
