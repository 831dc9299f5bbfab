"""The network of a finished run, once its weights are proved to be those of its record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pruneboard import report
from pruneboard.artifacts.verification import consistency, rebuild, recount, walk
from pruneboard.artifacts.verification.rules import UNUSABLE
from pruneboard.errors import ConformanceError, PruneboardError, StoreError, UsageError
from pruneboard.models import ModelPlan
from pruneboard.records import store
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import Check


@dataclass(frozen=True)
class Subject:
    """What is exported or measured.

    Attributes:
        record: of the finished run.
        plan: how its network is built.
        network: the network with its weights, on the CPU, in evaluation mode.
        state: its tensors by name, as the run's file has them.
    """

    record: Record
    plan: ModelPlan
    network: nn.Module
    state: dict[str, Tensor]

    @property
    def weights(self) -> list[str]:
        """Names of the prunable weights, in the order of the record's layers."""
        return [f"{layer['name']}.weight" for layer in self.record["sparsity"]["layers"]]


def checked(folder: Path, record: Record, done: str = "exported") -> Subject:
    """Rebuild the network and hold record, masks and weights to each other, as `pruneboard verify --no-data` does.

    Args:
        folder: of the run.
        record: its record, with status `done`.
        done: what is to be done to it, as messages say it.

    Raises:
        ConformanceError: something does not hold; the message names it.
        UsageError: the network cannot be built here, or the weights cannot be read.
    """
    try:
        return _checked(folder, record, done)
    except PruneboardError:
        raise
    except (*UNUSABLE, RuntimeError, MemoryError) as error:
        raise StoreError(
            report.printable(f"{folder / store.RUN} is no record of such weights: {type(error).__name__}: {error}", 500)
        ) from None


def _checked(folder: Path, record: Record, done: str) -> Subject:
    path = folder / store.WEIGHTS
    checks, masks = walk.check_masks(record, folder / store.MASK)
    _refuse(
        folder, done, [*consistency.check(record), *consistency.check_log(record, folder / consistency.LOG), *checks]
    )
    _check_normalization(folder, record)
    try:
        state = recount.read(path)
    except StoreError as error:
        raise StoreError(f"{path} {error}") from None
    _refuse(folder, done, recount.check(record, state, masks))  # before a network is built that a stranger names
    built = rebuild.network(record)
    if isinstance(built, Check):
        raise UsageError(report.printable(f"{folder} cannot be {done}: {built.note}", 500))
    _refuse(folder, done, rebuild.check(record, built, state, masks))
    return Subject(record, built.plan, built.plain, state)


def _refuse(folder: Path, done: str, checks: Iterable[Check]) -> None:
    failed = [check for check in checks if check.status == "failed"]
    if failed:
        found = f"{failed[0].name}: {failed[0].note}"
        raise ConformanceError(
            report.printable(f"{folder} is disputed and is not {done} ({found}); see `pruneboard verify`", 700)
        )


def _check_normalization(folder: Path, record: Record) -> None:
    """Mean and deviation enter every description, and no check of the weights looks at them."""
    for name in ("mean", "std"):
        values = record["data"].get(name)
        sound = isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))
        if not sound or (name == "std" and min(values) <= 0):
            raise StoreError(
                report.printable(
                    f"{folder / store.RUN}: data.{name} is three numbers of the channels; found {values!r}"
                )
            )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
