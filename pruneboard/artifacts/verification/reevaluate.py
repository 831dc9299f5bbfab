"""The scores of a run measured anew, where its data is there: the plain network, on the CPU, in float32.

A record made on the same kind of processor, with as many threads and the same torch, is held to the very number of
correct images. Elsewhere sums are taken in another order, and an image whose two highest scores nearly tie may fall to
the other side: then as many as `allowed` may differ, and the note of a check that holds says how many did.
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
from pruneboard.records import provenance
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import Check
from pruneboard.training.evaluate import Metrics, evaluate

EMBEDDED = ("digits",)
"""Data sets that come with the installation."""

_LARGEST_BATCH = 1024
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tolerance:
    """How far two evaluations of the same network may be apart.

    Attributes:
        images: of `correct`, and of what top-5 counts.
        loss: relative.
    """

    images: int
    loss: float


def check(record: Record, plain: nn.Module, data_dir: str | None) -> list[Check]:
    """Return what holds of the scores on the test and the validation split.

    Args:
        record: a validated record of a finished run.
        plain: its network with its weights, in evaluation mode, on the CPU.
        data_dir: where the data set is; `digits` needs none. Nothing is ever fetched.
    """
    if record["data"]["name"] not in EMBEDDED and data_dir is None:
        return [Check("evaluation.data", "skipped", f"{record['data']['name']:.80} needs --data-dir")]
    try:
        dataset = _open(record, data_dir)
    except PruneboardError as error:
        return [Check("evaluation.data", "skipped", str(error))]
    data = _same_data(record, dataset)
    if data.status != "ok":
        return [data]
    splits = {"test": dataset.test, "validation": dataset.validation}
    return [data, *(_scores(record, name, _evaluate(record, plain, dataset, split)) for name, split in splits.items())]


def allowed(record: Record, count: int) -> Tolerance:
    """Return the tolerance for a split of `count` images: none on the machine, or its like, that made the record."""
    here = ("cpu", provenance.processor(), torch.get_num_threads(), provenance.version_of("torch"), 1)
    paths = ("hardware.device", "hardware.processor", "hardware.threads", "software.torch", "engine.world_size")
    if here == tuple(lookup(record, path) for path in paths):
        return Tolerance(0, 1e-5)
    return Tolerance(max(2, count // 1000), 1e-2)


def _open(record: Record, data_dir: str | None) -> Dataset:
    data = record["data"]
    return _opened(
        data["name"],
        None if data["name"] in EMBEDDED else data_dir,
        data["image_size"],
        record["recipe"]["val_fraction"],
        data["limit_train"],
        key(record["seed"], "split"),
    )


@lru_cache(maxsize=4)  # the seeds of a board follow each other, method after method
def _opened(
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


def _same_data(record: Record, dataset: Dataset) -> Check:
    data = record["data"]
    if dataset.sha256 != data["sha256"]:
        note = f"the images hash to {dataset.sha256[:12]}...; the record says {data['sha256']:.12}..."
        return Check("evaluation.data", "failed" if data["name"] in EMBEDDED else "skipped", note)
    if dataset.split_sha256 != data["split_sha256"]:
        return Check("evaluation.data", "failed", "data.split_sha256 is not that of the seed: other images validate")
    return Check("evaluation.data", "ok")


def _evaluate(record: Record, plain: nn.Module, dataset: Dataset, split: Split) -> Metrics:
    size = lookup(record, "engine.micro_batch")  # as the run did: another batch may sum in another order
    size = size if type(size) is int and 1 <= size <= _LARGEST_BATCH else 64
    batches = eval_batches(split, dataset, BatchPlan.for_evaluation(size, _CPU))
    return evaluate(plain, batches, len(dataset.classes), lambda totals: totals)


def _scores(record: Record, split: str, found: Metrics) -> Check:
    said, tolerance = record["metrics"][split], allowed(record, found.count)
    problems = list(_problems(said, found, tolerance))
    correct = said.get("correct", round(said["top1"] * found.count))
    note = f"{found.correct} of {found.count} images are right; the record says {correct}"
    if problems:
        return Check(f"evaluation.{split}", "failed", "; ".join([note, *problems]))
    return Check(f"evaluation.{split}", "ok", f"{note}, on other hardware" if found.correct != correct else "")


def _problems(said: dict[str, Any], found: Metrics, tolerance: Tolerance) -> Iterator[str]:
    if said.get("count", found.count) != found.count:
        yield f"the split has {found.count} images; the record says {said['count']}"
    correct = said.get("correct", round(said["top1"] * found.count))
    if abs(correct - found.correct) > tolerance.images:
        yield f"{abs(correct - found.correct)} apart, where {tolerance.images} may be"
    if said.get("loss") is not None and not math.isclose(
        said["loss"], found.loss, rel_tol=tolerance.loss, abs_tol=1e-6
    ):
        yield f"the loss is {found.loss:.6g}; the record says {said['loss']:.6g}"
    top5 = said.get("top5")
    if (top5 is None) != (found.top5 is None) or abs(
        (top5 or 0) - (found.top5 or 0)
    ) * found.count > tolerance.images + 0.5:
        yield f"top-5 is {found.top5}; the record says {top5}"
    worst = said.get("worst_class_top1")
    if not tolerance.images and worst is not None and abs(worst - found.worst_class_top1) > 1e-6:
        yield f"the worst class has {found.worst_class_top1:.6g}; the record says {worst:.6g}"
