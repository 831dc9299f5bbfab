"""Batches of a split on the device: order, division among processes, augmentation, normalization.

Order. Each epoch has one permutation of the whole training split, `_epoch_order`, keyed by (order seed, stream, epoch).
It is the same on every process. Global batch i holds the images order[i*B : (i+1)*B]; images that do not fill a last
batch are left out.

Division. A global batch of B images consists of B/m micro-batches of m images, which batch normalization normalizes
together. Of w processes, process r takes the a = B/(m*w) micro-batches r*a to r*a + a-1. Micro-batches therefore hold
the same images on any number of processes.

Augmentation. Crops and flips are drawn for the whole global batch, keyed by (augmentation seed, stream, epoch, step),
and then sliced. Streaming images with `imagenet` augmentation draw one by one, keyed by their position in the epoch.
Neither the number of processes nor of loader workers changes an image, and a resumed epoch continues with the same
batches because no draw depends on an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.data import augment
from pruneboard.data.images import fingerprint
from pruneboard.data.splits import Dataset, Pixels, Split
from pruneboard.data.stream import Reader, SeedParts, evaluation_transform, read_batches, training_transform
from pruneboard.errors import UnknownNameError, UsageError

Batch = tuple[Tensor, Tensor]
"""Images float32 [m, 3, S, S], normalized, and labels int64 [m], both on the device."""


@dataclass(frozen=True)
class BatchPlan:
    """How the global batch of each optimizer step is divided, and on which device.

    Attributes:
        batch_size: images per optimizer step over all processes.
        micro_batch: images normalized together.
        rank: rank of this process.
        world: number of processes.
        augment: the recipe's `augment`: `none`, `crop`, `crop-flip` or `imagenet`. With the first three, streaming
            images are center-cropped first, as in evaluation; with `imagenet`, they get a random resized crop.
        order_seed: seed of the image order.
        augment_seed: seed of crops and flips.
        device: device of the batches.
        workers: processes that decode streaming images; the batches do not depend on it.
    """

    batch_size: int
    micro_batch: int
    rank: int
    world: int
    augment: str
    order_seed: int
    augment_seed: int
    device: torch.device
    workers: int = 2

    def __post_init__(self) -> None:
        """Refuse a batch that cannot be divided evenly."""
        if self.augment not in augment.MODES:
            raise UnknownNameError("augmentation", self.augment, augment.MODES)
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} is not one of {self.world} processes: ranks are 0 to {self.world - 1}")
        if self.batch_size < 1 or self.micro_batch < 1 or self.batch_size % (self.micro_batch * self.world):
            raise UsageError(
                f"a batch of {self.batch_size} cannot be divided into micro-batches of {self.micro_batch} for "
                f"{self.world} processes: batch_size must be a multiple of micro_batch x processes, "
                f"here of {self.micro_batch * self.world}"
            )

    @classmethod
    def for_evaluation(
        cls, batch_size: int, device: torch.device, *, rank: int = 0, world: int = 1, workers: int = 2
    ) -> BatchPlan:
        """Return a plan for `eval_batches` alone, with `batch_size` images per process and batch."""
        return cls(batch_size * world, batch_size, rank, world, "none", 0, 0, device, workers)

    @property
    def chunks(self) -> list[range]:
        """Positions of this process's micro-batches in the global batch."""
        size = self.batch_size // self.world
        starts = range(self.rank * size, (self.rank + 1) * size, self.micro_batch)
        return [range(start, start + self.micro_batch) for start in starts]


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Return the number of full batches in the training split; the remaining images are left out of an epoch.

    Raises:
        UsageError: the split is smaller than one batch.
    """
    steps = len(dataset.train) // batch_size
    if steps < 1:
        raise UsageError(
            f"the training split of {dataset.name} has {len(dataset.train)} images, fewer than one batch of "
            f"{batch_size}: lower --batch-size, raise --limit-train or add images"
        )
    return steps


def train_batches(
    dataset: Dataset, plan: BatchPlan, *, epoch: int, stream: str = "train", start: int = 0
) -> Iterator[list[Batch]]:
    """Return one epoch of augmented training batches.

    Args:
        dataset: the data set; its training split is used.
        plan: division, augmentation, seeds and device.
        epoch: epoch number; epochs may be requested in any order.
        stream: name of a sequence of draws; each name has its own order and crops.
        start: first step to return; the batches are the same as without it.

    Returns:
        One item per optimizer step: this process's micro-batches in order.

    Raises:
        UsageError: the split is smaller than one batch, or the augmentation is `imagenet` and images are in memory.
        DataError: during iteration, if a streaming file cannot be decoded.
    """
    steps = range(start, steps_per_epoch(dataset, plan.batch_size))
    if plan.augment == "imagenet" and not dataset.train.streams:
        raise UsageError(
            f"augment 'imagenet' is for streaming images, and those of {dataset.name} are in memory: "
            "choose none, crop or crop-flip"
        )
    return _train_batches(dataset, plan, epoch, stream, steps)


def _train_batches(dataset: Dataset, plan: BatchPlan, epoch: int, stream: str, steps: range) -> Iterator[list[Batch]]:
    split = dataset.train.select(_epoch_order(dataset, plan, epoch=epoch, stream=stream))
    spans = [range(i * plan.batch_size + c.start, i * plan.batch_size + c.stop) for i in steps for c in plan.chunks]
    seed = (plan.augment_seed, stream, epoch) if plan.augment == "imagenet" else None
    pixels = _image_batches(split, spans, dataset.image_size, seed=seed, workers=plan.workers, device=plan.device)
    labels = split.labels.to(plan.device)
    normalize = augment.Normalize(dataset.mean, dataset.std, plan.device)
    for step in steps:
        key = draws.key(plan.augment_seed, stream, epoch, step)
        drawn = augment.draw(plan.augment, plan.batch_size, dataset.image_size, key)
        targets = labels[step * plan.batch_size : (step + 1) * plan.batch_size]
        yield [
            (normalize(drawn.part(c).apply(images) if drawn else images), targets[c.start : c.stop])
            for c, images in zip(plan.chunks, islice(pixels, len(plan.chunks)), strict=True)
        ]


CALIBRATION_BATCHES = 16
"""Number of global batches on which batch-normalization statistics are re-estimated."""


def calibration_batches(dataset: Dataset, plan: BatchPlan, count: int = CALIBRATION_BATCHES) -> Iterator[Batch]:
    """Yield this process's micro-batches of a fixed set of `count` augmented global batches.

    The set has its own stream: it is the same for every method and differs from the training batches. If epoch 0 has
    fewer than `count` batches, epoch 1 follows, and so on. Over all processes the set does not depend on their number.
    """
    per_epoch = steps_per_epoch(dataset, plan.batch_size)
    for epoch in range(math.ceil(count / per_epoch)):
        steps = train_batches(dataset, plan, epoch=epoch, stream="calibration")
        for batches in islice(steps, count - epoch * per_epoch):
            yield from batches


def eval_batches(split: Split, dataset: Dataset, plan: BatchPlan) -> Iterator[Batch]:
    """Yield the images rank, rank + world, ... of `split` without augmentation: each image once over all processes.

    Args:
        split: a split of `dataset`.
        dataset: the data set, for image size and normalization.
        plan: its micro-batch is the batch size (the last batch may be smaller); its seeds are not used.

    Raises:
        DataError: a streaming file cannot be decoded.
    """
    mine = split.select(torch.arange(len(split))[plan.rank :: plan.world])
    size = plan.micro_batch
    spans = [range(i, min(i + size, len(mine))) for i in range(0, len(mine), size)]
    pixels = _image_batches(mine, spans, dataset.image_size, seed=None, workers=plan.workers, device=plan.device)
    labels = mine.labels.to(plan.device)
    normalize = augment.Normalize(dataset.mean, dataset.std, plan.device)
    for span, images in zip(spans, pixels, strict=True):
        yield normalize(images), labels[span.start : span.stop]


def order_sha256(dataset: Dataset, plan: BatchPlan, *, epoch: int) -> str:
    """Return the SHA-256 of the image order of a training epoch."""
    return fingerprint(_epoch_order(dataset, plan, epoch=epoch, stream="train"))


def _epoch_order(dataset: Dataset, plan: BatchPlan, *, epoch: int, stream: str) -> Tensor:
    """Return the order of an epoch on all processes, int64 [N]: a permutation of the training split."""
    generator = torch.Generator().manual_seed(draws.key(plan.order_seed, stream, epoch))
    return torch.randperm(len(dataset.train), generator=generator)


def _image_batches(
    split: Split, spans: Sequence[range], image_size: int, *, seed: SeedParts | None, workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Return the images at each span of positions in `split`, uint8 [len(span), 3, S, S] on `device`.

    With a seed, streaming images get ImageNet's random training crop and flip; without, its center crop.
    """
    if isinstance(split.images, Pixels):
        return _select(split.images.on(device), split.rows.to(device), spans)
    transform = evaluation_transform(image_size) if seed is None else training_transform(image_size)
    reader = Reader(split.images, split.rows, transform, seed)
    on_gpu = device.type == "cuda"
    return _to_device(read_batches(reader, spans, workers=workers, pin=on_gpu), device)


def _select(stored: Tensor, rows: Tensor, spans: Iterable[range]) -> Iterator[Tensor]:
    images = stored.permute(0, 2, 3, 1)  # channels last, as stored: each image is contiguous
    for span in spans:
        yield images.index_select(0, rows[span.start : span.stop]).permute(0, 3, 1, 2)


def _to_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    for batch in batches:
        yield batch.to(device, non_blocking=True)
