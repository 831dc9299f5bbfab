"""(d) The input pipeline: augmented, normalized images per second, compared with torchvision and its loader."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from cases import images
from PIL import Image
from rows import Row
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Images
from torchvision.transforms import v2

from pruneboard.data import BatchPlan, train_batches

pytestmark = pytest.mark.benchmark(timer=time.perf_counter)  # wall time: it covers the loader's worker processes

COUNT, BATCH = 50_000, 128
OURS, THEIRS = 100, 25
"""Batches per round."""


class AsTorchvision(Images):
    """The same images as torchvision's CIFAR10 stores them: one array, returned as PIL images."""

    def __init__(self, dataset) -> None:
        """Store the images as CIFAR10 does, with the usual transforms."""
        self.data = dataset.train.images.stored.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = dataset.train.labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def endless(batches_of_epoch):
    """Yield the batches of epoch 0, 1, 2, ... without end."""
    return itertools.chain.from_iterable(map(batches_of_epoch, itertools.count()))


@pytest.mark.parametrize("workers", [2, 0])
def test_pipeline(versus, rounds, workers):
    """Crop, flip and normalize 50,000 images of 32 px; the reference is timed after its workers have started."""
    dataset = images(COUNT)
    plan = BatchPlan(BATCH, BATCH, 0, 1, "crop-flip", 1, 2, torch.device("cpu"))
    ours = endless(lambda epoch: train_batches(dataset, plan, epoch=epoch))
    loader = DataLoader(
        AsTorchvision(dataset),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    theirs = endless(lambda _: loader)

    def drawn(batches, count):
        for found in itertools.islice(batches, count):
            assert len(found)

    drawn(theirs, 2 * workers)  # the batches that the workers prefetched
    row = Row(
        section="d",
        what="crop, flip, normalize; CIFAR's size, batch 128",
        against=f"torchvision's v2 transforms and a DataLoader with {workers} workers",
        kind="gain",
        bound=10.0 if workers else None,
        note="pruneboard has no workers; the reference gets PIL images, as torchvision's CIFAR10 returns them",
        unit="images/s",
        ours_units=OURS * BATCH,
        reference_units=THEIRS * BATCH,
    )
    versus(row, lambda: drawn(ours, OURS), lambda: drawn(theirs, THEIRS), rounds=rounds(15, 3))
