"""Data sets and batches.

`open_dataset` returns a `Dataset` with three splits. `train_batches`, `calibration_batches` and `eval_batches` turn a
split into normalized batches on the device.

Every random draw (order, crops, flips) is a pure function of a seed, a stream name and a position (epoch, step), and is
made for the global batch, of which each process takes its part. Batches therefore do not depend on the number of
processes or loader workers, and there is no generator state to save in a checkpoint.
"""

from __future__ import annotations

from pruneboard.data.batches import (
    CALIBRATION_BATCHES,
    BatchPlan,
    calibration_batches,
    eval_batches,
    order_sha256,
    steps_per_epoch,
    train_batches,
)
from pruneboard.data.folder import SMALL_IMAGE
from pruneboard.data.listing import first_image_side
from pruneboard.data.sources import DATASETS, dataset_cache, open_dataset, override_dataset
from pruneboard.data.splits import Dataset, Split

__all__ = [
    "CALIBRATION_BATCHES",
    "DATASETS",
    "SMALL_IMAGE",
    "BatchPlan",
    "Dataset",
    "Split",
    "calibration_batches",
    "dataset_cache",
    "eval_batches",
    "first_image_side",
    "open_dataset",
    "order_sha256",
    "override_dataset",
    "steps_per_epoch",
    "train_batches",
]
