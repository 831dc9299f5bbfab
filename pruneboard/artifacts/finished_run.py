"""A finished run as the input of `pruneboard export` and `pruneboard latency`: its record and its verified network.

`find` works without torch, so that a command can reject a wrong path at once; `load` imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pruneboard.artifacts.verification import consistency
from pruneboard.artifacts.verification.masks import check_masks
from pruneboard.artifacts.verification.rules import MALFORMED
from pruneboard.errors import ConformanceError, PruneboardError, StoreError, UsageError, printable
from pruneboard.records import store
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruneboard.models import ModelPlan

_NEEDED = ("data.image_size", "data.mean", "data.std", "cost.macs_dense", "cost.macs_remaining", "weights_sha256")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose weights match its record.

    Attributes:
        record: its record.
        plan: how its network is built.
        network: the network with the run's weights, on the CPU, in evaluation mode.
        state: the tensors of `model.safetensors`, by name.
    """

    record: Record
    plan: ModelPlan
    network: nn.Module
    state: dict[str, Tensor]

    @property
    def weights(self) -> list[str]:
        """Names of the prunable weights, in the order of the record's layers."""
        return [f"{layer['name']}.weight" for layer in self.record["sparsity"]["layers"]]


def find(run: Path, purpose: str) -> tuple[Path, Record]:
    """Return the folder and the record of a finished run that has its weights.

    Args:
        run: the run's folder, or its `run.json`.
        purpose: what the run is to be, as a participle for messages: "exported" or "measured".

    Raises:
        NotFoundError: there is no record.
        StoreError: the record cannot be read, or there are no weights next to it.
        UsageError: the run is not done.
    """
    path = store.inside(run / store.RUN, run) if run.is_dir() else run
    try:
        record = store.read(path)
    except StoreError as error:
        raise StoreError(printable(f"{path}: {error}", 500)) from None
    if record["status"] != "done":
        raise UsageError(f"{path} has status {record['status']}: only a finished run can be {purpose}")
    if not os.path.lexists(path.parent / store.WEIGHTS):
        raise StoreError(
            f"there is no {store.WEIGHTS} next to {path}: a record alone cannot be {purpose}; "
            "copy the weights from where the run was made, or repeat the run with --force"
        )
    return path.parent, record


def load(folder: Path, record: Record, purpose: str) -> FinishedRun:
    """Build the network, load its weights, and make the checks of `pruneboard verify --no-data`.

    Args:
        folder: the run's folder.
        record: its record, as returned by `find`.
        purpose: see `find`.

    Raises:
        ConformanceError: a check failed; the message names the first one.
        UsageError: the network cannot be built here, or the weights cannot be read.
    """
    try:
        return _load(folder, record, purpose)
    except PruneboardError:
        raise
    except (*MALFORMED, RuntimeError, MemoryError) as error:
        message = f"{folder / store.RUN} cannot be compared with its weights: {type(error).__name__}: {error}"
        raise StoreError(printable(message, 500)) from None


def _load(folder: Path, record: Record, purpose: str) -> FinishedRun:
    from pruneboard.artifacts.verification import network

    def require(checks: Iterable[RunCheck]) -> None:
        for check in checks:
            if check.status == "failed":
                message = f"{folder} is disputed and is not {purpose} ({check.name}: {check.note})"
                raise ConformanceError(printable(f"{message}; see `pruneboard verify`", 700))

    checks, masks = check_masks(record, folder / store.MASK)
    require([*consistency.check_record(record), *consistency.check_log(record, folder / consistency.LOG), *checks])
    _check_fields(folder, record)
    try:
        built = network.load_network(record, folder / store.WEIGHTS, masks, checks)
    except StoreError as error:
        raise StoreError(f"{folder / store.WEIGHTS} {error}") from None
    require(checks)
    if built is None:
        raise UsageError(printable(f"{folder} cannot be {purpose}: {checks[-1].note}", 500))
    return FinishedRun(record, built.plan, built.module, dict(built.state))


def _check_fields(folder: Path, record: Record) -> None:
    """Check fields that a record may lack, that an export or a measurement needs, and that no check of a run reads."""
    missing = [path for path in _NEEDED if lookup(record, path) is None]
    if missing:
        raise StoreError(f"{folder / store.RUN} lacks {', '.join(missing)}: repeat the run with this pruneboard")
    for name in ("mean", "std"):
        values = record["data"][name]
        if len(values) != 3:
            found = f"data.{name} must be three numbers, one per channel; found {values!r}"
            raise StoreError(printable(f"{folder / store.RUN}: {found}", 500))
