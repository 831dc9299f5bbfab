"""Crops, flips and normalization of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_cases import CPU, batch_plan, numbered
from pruneboard import data, draws
from pruneboard.data import augment
from pruneboard.data.augment import Normalize


def test_crops_have_every_offset_and_half_of_them_are_flipped():
    """Offsets run from 0 to twice the padding, and about half of the images are mirrored."""
    drawn = augment.draw("crop-flip", 4000, 32, seed=5)
    assert sorted(drawn.top.unique().tolist()) == sorted(drawn.left.unique().tolist()) == list(range(9))
    assert 0.45 < drawn.flip.float().mean() < 0.55


@pytest.mark.parametrize("mode", ["none", "imagenet"])
def test_other_modes_draw_no_crops(mode):
    """`none` and `imagenet` draw nothing for the batch."""
    assert augment.draw(mode, 8, 32, seed=0) is None


def test_crop_draws_the_offsets_of_crop_flip_and_no_flips():
    """With equal seeds, `crop` and `crop-flip` have the same offsets; `crop` flips nothing."""
    one, other = (augment.draw(mode, 50, 32, seed=7) for mode in ("crop", "crop-flip"))
    assert torch.equal(one.top, other.top)
    assert torch.equal(one.left, other.left)
    assert not one.flip.any()
    assert other.flip.any()


@settings(max_examples=25, deadline=None)
@given(size=st.sampled_from([1, 8, 17]), count=st.integers(1, 12), data=st.data())
def test_a_part_of_a_batch_gets_the_crops_of_the_whole_batch(size, count, data):
    """Augmenting a slice of a batch gives the same images as slicing the augmented batch."""
    start = data.draw(st.integers(0, count - 1))
    span = range(start, data.draw(st.integers(start + 1, count)))
    images = numbered(count, size).train.images.stored
    drawn = augment.draw("crop-flip", count, size, seed=3)
    part = slice(span.start, span.stop)
    assert torch.equal(drawn.part(span).apply(images[part]), drawn.apply(images)[part])


def test_a_constant_channel_at_its_mean_normalizes_to_zero():
    """Normalization maps pixels at the mean to 0 and pixels one deviation above it to 1."""
    images = torch.tensor([51, 102], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    found = Normalize((0.2,) * 3, (0.2,) * 3, CPU)(images)
    assert torch.allclose(found[0], torch.zeros(3, 4, 4), atol=1e-6)
    assert torch.allclose(found[1], torch.ones(3, 4, 4), atol=1e-6)


def by_formula(dataset, plan, epoch, step):
    """Return a batch by the formula used on GPUs: pad, index every crop, normalize channel by channel."""
    order = torch.randperm(
        len(dataset.train), generator=torch.Generator().manual_seed(draws.key(plan.order_seed, "train", epoch))
    )
    images = dataset.train.images.stored[order[step * plan.batch_size :][: plan.batch_size]]
    key = draws.key(plan.augment_seed, "train", epoch, step)
    drawn = augment.draw(plan.augment, plan.batch_size, dataset.image_size, key)
    if drawn is not None:
        padded = torch.nn.functional.pad(images, (drawn.pad,) * 4)
        windows = padded.unfold(2, dataset.image_size, 1).unfold(3, dataset.image_size, 1)
        crops = windows[torch.arange(len(images)), :, drawn.top, drawn.left]
        images = torch.where(drawn.flip[:, None, None, None], crops.flip(3), crops)
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in (dataset.mean, dataset.std))
    return images.float().div_(255).sub_(mean).div_(std)


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(["none", "crop", "crop-flip"]),
    size=st.sampled_from([1, 7, 8, 24, 33]),
    batch=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_the_cpu_path_gives_the_same_bits_as_the_formula(mode, size, batch, epoch):
    """Copying and normalizing row by row on the CPU equals the plain formula bit for bit."""
    dataset = numbered(count=2 * batch, size=size)
    plan = batch_plan(augment=mode, batch_size=batch, micro_batch=batch)
    for step, [(images, _)] in enumerate(data.train_batches(dataset, plan, epoch=epoch)):
        assert torch.equal(images.view(torch.int32), by_formula(dataset, plan, epoch, step).view(torch.int32))
        assert images.permute(0, 2, 3, 1).is_contiguous()
