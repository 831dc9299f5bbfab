"""From a split to normalized batches on the device: order, cutting, augmentation.

Global batch i of epoch e holds the images order(e)[i*B : (i+1)*B]. It is cut into B/m chunks of m images
that are normalized together; of w processes, process r takes chunks r*a .. r*a + a-1, where a = B/(m*w).
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
from pruneboard.data.stream import Reader, SeedParts, evaluation_transform, read, training_transform
from pruneboard.errors import UnknownNameError, UsageError

Batch = tuple[Tensor, Tensor]
"""Images float32 [m, 3, S, S], normalized, and labels int64 [m], both on the device."""


@dataclass(frozen=True)
class BatchPlan:
    """How each optimizer step's global batch is cut.

    Attributes:
        batch_size: images per optimizer step over all processes.
        micro_batch: images normalized together.
        rank: this process.
        world: how many there are.
        augment: the recipe's: `none`, `crop`, `crop-flip` or `imagenet`; with the first three, streaming
            images start from their centre as in evaluation, with the last from a random resized crop.
        order_seed: of the order of the images.
        augment_seed: of crops and flips.
        device: where batches are delivered.
        workers: processes that decode streaming images; no effect on what is delivered.
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
        """Refuse a batch that cannot be cut evenly."""
        if self.augment not in augment.MODES:
            raise UnknownNameError("augmentation", self.augment, augment.MODES)
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} is not one of {self.world} processes: it is 0 to {self.world - 1}")
        if self.batch_size < 1 or self.micro_batch < 1 or self.batch_size % (self.micro_batch * self.world):
            raise UsageError(
                f"a batch of {self.batch_size} cannot be cut into micro-batches of {self.micro_batch} for "
                f"{self.world} processes: batch_size must be a multiple of micro_batch x processes, "
                f"here of {self.micro_batch * self.world}"
            )

    @classmethod
    def for_evaluation(
        cls, batch_size: int, device: torch.device, *, rank: int = 0, world: int = 1, workers: int = 2
    ) -> BatchPlan:
        """Return a plan for `eval_batches` where nothing is trained: `batch_size` images per process and batch."""
        return cls(batch_size * world, batch_size, rank, world, "none", 0, 0, device, workers)

    @property
    def chunks(self) -> list[range]:
        """Positions in the global batch of this process's micro-batches."""
        size = self.batch_size // self.world
        starts = range(self.rank * size, (self.rank + 1) * size, self.micro_batch)
        return [range(start, start + self.micro_batch) for start in starts]


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Return how many whole batches the training split makes; the rest of an epoch is left out.

    Raises:
        UsageError: not even one.
    """
    steps = len(dataset.train) // batch_size
    if steps < 1:
        raise UsageError(
            f"the training split of {dataset.name} has {len(dataset.train)} images, less than one batch of "
            f"{batch_size}: lower --batch-size, or raise --limit-train or add images"
        )
    return steps


def train_batches(
    dataset: Dataset, plan: BatchPlan, *, epoch: int, stream: str = "train", start: int = 0
) -> Iterator[list[Batch]]:
    """Return one epoch of augmented training batches.

    Args:
        dataset: whose training split is used.
        plan: how batches are cut, for which process, on which device.
        epoch: which epoch; any can be asked for at any time.
        stream: name of the sequence of draws; another name, another order and other crops.
        start: the first step to deliver: a resumed epoch is the tail of the whole one.

    Returns:
        One item per optimizer step: this process's micro-batches in order.

    Raises:
        UsageError: the split is smaller than one batch, or images in memory meet `imagenet`.
        DataError: while iterating, a streaming file that does not decode.
    """
    steps = range(start, steps_per_epoch(dataset, plan.batch_size))
    if plan.augment == "imagenet" and not dataset.train.streams:
        raise UsageError(
            f"augment 'imagenet' is for images that stream, and those of {dataset.name} are in memory: "
            "choose none, crop or crop-flip"
        )
    return _train_batches(dataset, plan, epoch, stream, steps)


def _train_batches(dataset: Dataset, plan: BatchPlan, epoch: int, stream: str, steps: range) -> Iterator[list[Batch]]:
    split = dataset.train.select(_order(dataset, plan, epoch=epoch, stream=stream))
    spans = [range(i * plan.batch_size + c.start, i * plan.batch_size + c.stop) for i in steps for c in plan.chunks]
    seed = (plan.augment_seed, stream, epoch) if plan.augment == "imagenet" else None
    pixels = _pixels(split, spans, dataset.image_size, seed=seed, workers=plan.workers, device=plan.device)
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
"""Global batches that statistics are re-estimated on."""


def calibration_batches(dataset: Dataset, plan: BatchPlan, count: int = CALIBRATION_BATCHES) -> Iterator[Batch]:
    """Yield this process's micro-batches of a fixed set of `count` augmented global batches.

    They come from a stream of their own, so every method sees the same ones and training sees others; epochs
    0, 1, ... follow each other where one holds fewer than `count`. Over all processes the set is the same
    for any number of them.
    """
    per_epoch = steps_per_epoch(dataset, plan.batch_size)
    for epoch in range(math.ceil(count / per_epoch)):
        steps = train_batches(dataset, plan, epoch=epoch, stream="calibration")
        for batches in islice(steps, count - epoch * per_epoch):
            yield from batches


def eval_batches(split: Split, dataset: Dataset, plan: BatchPlan) -> Iterator[Batch]:
    """Yield images rank, rank + world, ... of `split`, not augmented: over all processes each image once.

    Args:
        split: of `dataset`.
        dataset: gives size and normalization.
        plan: its micro-batch is the batch size, and the last batch may hold fewer; the seeds are not used.

    Raises:
        DataError: a streaming file that does not decode.
    """
    mine = split.select(torch.arange(len(split))[plan.rank :: plan.world])
    size = plan.micro_batch
    spans = [range(i, min(i + size, len(mine))) for i in range(0, len(mine), size)]
    pixels = _pixels(mine, spans, dataset.image_size, seed=None, workers=plan.workers, device=plan.device)
    labels = mine.labels.to(plan.device)
    normalize = augment.Normalize(dataset.mean, dataset.std, plan.device)
    for span, images in zip(spans, pixels, strict=True):
        yield normalize(images), labels[span.start : span.stop]


def order_sha256(dataset: Dataset, plan: BatchPlan, *, epoch: int) -> str:
    """Return the sha256 of the order in which an epoch of training walks through the training split."""
    return fingerprint(_order(dataset, plan, epoch=epoch, stream="train"))


def _order(dataset: Dataset, plan: BatchPlan, *, epoch: int, stream: str) -> Tensor:
    generator = torch.Generator().manual_seed(draws.key(plan.order_seed, stream, epoch))
    return torch.randperm(len(dataset.train), generator=generator)


def _pixels(
    split: Split, spans: Sequence[range], image_size: int, *, seed: SeedParts | None, workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Return the images at each span of positions, uint8 [len(span), 3, S, S] on `device`.

    With a seed, files are cropped and flipped as ImageNet's training images are; without, as its test images.
    """
    if isinstance(split.images, Pixels):
        return _gather(split.images.on(device), split.rows.to(device), spans)
    transform = evaluation_transform(image_size) if seed is None else training_transform(image_size)
    reader = Reader(split.images, split.rows, transform, seed)
    on_gpu = device.type == "cuda"
    return _moved(read(reader, spans, workers=workers, pin=on_gpu), device)


def _gather(stored: Tensor, rows: Tensor, spans: Iterable[range]) -> Iterator[Tensor]:
    images = stored.permute(0, 2, 3, 1)  # as they lie in memory, where each is one piece
    for span in spans:
        yield images.index_select(0, rows[span.start : span.stop]).permute(0, 3, 1, 2)


def _moved(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    for batch in batches:
        yield batch.to(device, non_blocking=True)
