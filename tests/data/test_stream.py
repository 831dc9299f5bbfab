"""Streaming images: keyed transforms, independent of processes and workers."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from data_cases import CPU, damage, equal, error_line, global_draws, joined, open_tree, seed_globals, stream_plan
from pruneboard import data, draws
from pruneboard.data import BatchPlan
from pruneboard.data.stream import Reader, seeded, training_transform


def epoch(dataset, plan, number=0):
    """Return the steps of an epoch, each a list of micro-batches."""
    return list(data.train_batches(dataset, plan, epoch=number))


def evaluated(split, dataset, world=1, workers=0):
    """Return a split as evaluation batches it, the images of one rank after those of the other."""
    parts = [
        joined(
            data.eval_batches(split, dataset, BatchPlan.for_evaluation(4, CPU, rank=r, world=world, workers=workers))
        )
        for r in range(world)
    ]
    return joined(parts)


@pytest.mark.parametrize("augment", ["imagenet", "crop-flip"])
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (4, 2)])
def test_streaming_depends_neither_on_processes_nor_on_workers(large, augment, world, workers):
    """Each image's transform is keyed by its position in the epoch, so processes and workers do not change it."""
    dataset = open_tree(large)
    whole = [joined(step) for step in epoch(dataset, stream_plan(augment=augment))]
    assert len(whole) == 1
    ranks = [epoch(dataset, stream_plan(augment=augment, world=world, rank=r, workers=workers)) for r in range(world)]
    for i, expected in enumerate(whole):
        assert equal(joined(batch for rank in ranks for batch in rank[i]), expected)


def test_streaming_is_repeatable_and_differs_between_epochs(large):
    """The same epoch gives the same batch twice; another epoch has another order and other crops."""
    dataset = open_tree(large)
    first, again, other = (joined(epoch(dataset, stream_plan(), number)[0]) for number in (0, 0, 1))
    assert equal(first, again)
    assert not torch.equal(first[0], other[0])


def test_streamed_crops_are_timms_with_keyed_generators(large):
    """An image equals timm's transform of its file with generators seeded by its position in the epoch."""
    dataset = open_tree(large)
    images, labels = joined(epoch(dataset, stream_plan(), 5)[0])
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    order = torch.randperm(15, generator=torch.Generator().manual_seed(draws.key(3, "train", 5)))
    for place in (0, 5):
        row = dataset.train.rows[order[place]]
        file = sorted((large / "train").glob("*/*.png"))[row]
        with seeded(draws.key(4, "train", 5, place)):
            crop = training_transform(16)(Image.open(file).convert("RGB"))
        expected = functional.normalize(crop.float() / 255, dataset.mean, dataset.std)
        assert torch.allclose(images[place], expected, atol=1e-6)
        assert labels[place] == dataset.train.labels[order[place]]


def test_streamed_evaluation_uses_the_center_of_each_image_once(large):
    """Images are resized to 1/0.875 of the side and center-cropped; each occurs once on any number of processes."""
    dataset = open_tree(large)
    images, labels = evaluated(dataset.test, dataset)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    file = sorted((large / "test").glob("*/*.png"))[4]
    resized = functional.resize(Image.open(file), 18)
    expected = functional.normalize(
        functional.to_tensor(functional.center_crop(resized, 16)), dataset.mean, dataset.std
    )
    assert torch.allclose(images[4], expected, atol=1e-6)
    shared, shared_labels = evaluated(dataset.test, dataset, world=2, workers=1)
    order = torch.tensor([*range(0, 9, 2), *range(1, 9, 2)])
    assert torch.equal(shared, images[order])
    assert torch.equal(shared_labels, labels[order])


def test_streaming_without_workers_does_not_change_global_generators(large):
    """With 0 workers, transforms draw in this process, and the global generators are restored."""
    dataset = open_tree(large)
    seed_globals()
    expected = global_draws()
    seed_globals()
    epoch(dataset, stream_plan())
    epoch(dataset, stream_plan(workers=2))
    assert global_draws() == expected


def test_seeded_generators_are_restored_after_an_error():
    """Inside `seeded`, draws depend on the seed alone; afterwards, even after an error, the old state is back."""
    seed_globals()
    expected = global_draws()
    seed_globals()
    with seeded(3):
        first = global_draws()
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = global_draws(), 1 / 0
    with seeded(3):
        assert global_draws() == first
    assert global_draws() == expected


def test_a_reader_can_be_pickled(large):
    """A pickled reader, as spawned workers get it, reads the same image."""
    dataset = open_tree(large)
    reader = Reader(dataset.train.images, dataset.train.rows, training_transform(16), (4, "train", 0))
    assert torch.equal(pickle.loads(pickle.dumps(reader))[3], reader[3])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_in_a_stream_is_named(large, workers):
    """The one-line error is the same whether a worker or this process decodes the file."""
    for file in sorted((large / "train").glob("*/*.png"))[1:]:
        damage(file)
    dataset = open_tree(large)
    text = error_line(lambda: epoch(dataset, stream_plan(workers=workers)))
    assert text.startswith(f"cannot decode {large / 'train'}")
    assert text.endswith("; replace or delete it")
