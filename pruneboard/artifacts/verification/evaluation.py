"""Measure the scores of a run again if its data is available: the plain network, on the CPU, in float32.

On the record's kind of processor, with its number of threads and version of torch, the number of correct images must
be equal. On any other machine sums are computed in another order, and an image whose two highest scores nearly tie may
be classified differently: then `tolerance_for` allows a difference, and the note of the passed check states it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from pruneboard.data import BatchPlan, Dataset, Split, eval_batches, open_dataset
from pruneboard.draws import key
from pruneboard.errors import PruneboardError
from pruneboard.experiment.identity import majority_share
from pruneboard.records import provenance
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck
from pruneboard.training.evaluate import Metrics, evaluate

EMBEDDED = ("digits",)
"""Data sets that are included in pruneboard."""

_MAX_BATCH = 1024

MAX_PIXELS = 2**26
"""Maximum number of pixels of a batch, which bounds the memory of activations. 1,024 images of 256 x 256 are below it.

A record with larger batches is evaluated in smaller ones, where a sum may be rounded differently.
"""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed difference between two evaluations of the same network.

    Attributes:
        images: number of images, for top-1 and top-5.
        loss: relative difference of the loss.
    """

    images: int
    loss: float


def check_scores(record: Record, network: nn.Module, data_dir: str | None) -> list[RunCheck]:
    """Open the record's data set, and compare the scores on its test and validation splits.

    Args:
        record: a validated record of a finished run.
        network: its network with its weights, in evaluation mode, on the CPU.
        data_dir: folder of the data set; `digits` needs none. Nothing is downloaded.
    """
    if record["data"]["name"] not in EMBEDDED and data_dir is None:
        return [RunCheck("evaluation.data", "skipped", f"{record['data']['name']:.80} needs --data-dir")]
    try:
        dataset = _open(record, data_dir)
    except PruneboardError as error:
        return [RunCheck("evaluation.data", "skipped", str(error))]
    data = _check_data(record, dataset)
    if data.status != "ok":
        return [data]
    splits = {"test": dataset.test, "validation": dataset.validation}
    scores = {name: _evaluate(record, network, dataset, split) for name, split in splits.items()}
    return [data, *(_check_split(record, name, found) for name, found in scores.items())]


def tolerance_for(record: Record, count: int) -> Tolerance:
    """Return the tolerance for a split of `count` images: no image if this machine is like that of the record."""
    here = ("cpu", provenance.processor(), torch.get_num_threads(), provenance.version_of("torch"), 1)
    paths = ("hardware.device", "hardware.processor", "hardware.threads", "software.torch", "engine.world_size")
    if here == tuple(lookup(record, path) for path in paths):
        return Tolerance(0, 1e-5)
    return Tolerance(max(2, count // 1000), 1e-2)


def _open(record: Record, data_dir: str | None) -> Dataset:
    data = record["data"]
    return _open_cached(
        data["name"],
        None if data["name"] in EMBEDDED else data_dir,
        data["image_size"],
        record["recipe"]["val_fraction"],
        data["limit_train"],
        key(record["seed"], "split"),
    )


@lru_cache(maxsize=4)  # runs with the same seed have the same split; a board has a few seeds, repeated for every method
def _open_cached(
    name: str, data_dir: str | None, image_size: int, val_fraction: float, limit_train: int | None, split_seed: int
) -> Dataset:
    return open_dataset(
        name,
        data_dir=data_dir,
        download=False,
        image_size=image_size,
        val_fraction=val_fraction,
        limit_train=limit_train,
        split_seed=split_seed,
    )


def _check_data(record: Record, dataset: Dataset) -> RunCheck:
    data = record["data"]
    if dataset.sha256 != data["sha256"]:
        note = f"the images hash to {dataset.sha256[:12]}...; the record says {data['sha256']:.12}..."
        return RunCheck("evaluation.data", "failed" if data["name"] in EMBEDDED else "skipped", note)
    if dataset.split_sha256 != data["split_sha256"]:
        note = "data.split_sha256 is not that of the seed: the run had other validation images"
        return RunCheck("evaluation.data", "failed", note)
    majority = majority_share(dataset)
    if data.get("majority", majority) != majority:
        note = f"data.majority is {data['majority']}; the largest class has {majority} of the test images"
        return RunCheck("evaluation.data", "failed", note)
    return RunCheck("evaluation.data", "ok")


def _evaluate(record: Record, network: nn.Module, dataset: Dataset, split: Split) -> Metrics:
    size = lookup(record, "engine.micro_batch")  # as in the run: another batch size may sum in another order
    size = size if type(size) is int and 1 <= size <= _MAX_BATCH else 64
    size = max(1, min(size, MAX_PIXELS // dataset.image_size**2))
    batches = eval_batches(split, dataset, BatchPlan.for_evaluation(size, _CPU))
    return evaluate(network, batches, len(dataset.classes), lambda totals: totals)


def _check_split(record: Record, split: str, found: Metrics) -> RunCheck:
    recorded, tolerance = record["metrics"][split], tolerance_for(record, found.count)
    problems = list(_problems(recorded, found, tolerance))
    correct = recorded.get("correct", round(recorded["top1"] * found.count))
    note = f"{found.correct} of {found.count} images are classified correctly; the record says {correct}"
    if problems:
        return RunCheck(f"evaluation.{split}", "failed", "; ".join([note, *problems]))
    return RunCheck(
        f"evaluation.{split}", "ok", f"{note}, measured on other hardware" if found.correct != correct else ""
    )


def _problems(recorded: dict[str, Any], found: Metrics, tolerance: Tolerance) -> Iterator[str]:
    if recorded.get("count", found.count) != found.count:
        yield f"the split has {found.count} images; the record says {recorded['count']}"
    correct = recorded.get("correct", round(recorded["top1"] * found.count))
    if abs(correct - found.correct) > tolerance.images:
        yield f"they differ by {abs(correct - found.correct)}; at most {tolerance.images} is allowed"
    loss = recorded.get("loss")
    if loss is not None and not math.isclose(loss, found.loss, rel_tol=tolerance.loss, abs_tol=1e-6):
        yield f"the loss is {found.loss:.6g}; the record says {loss:.6g}"
    top5, images = recorded.get("top5"), tolerance.images + 0.5
    if (top5 is None) != (found.top5 is None) or abs((top5 or 0) - (found.top5 or 0)) * found.count > images:
        yield f"top-5 is {found.top5}; the record says {top5}"
    worst = recorded.get("worst_class_top1")
    if not tolerance.images and worst is not None and abs(worst - found.worst_class_top1) > 1e-6:
        yield f"the worst class has top-1 {found.worst_class_top1:.6g}; the record says {worst:.6g}"
