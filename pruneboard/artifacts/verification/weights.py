"""Check the weights of a finished run against its record and its packed masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pruneboard import models
from pruneboard.errors import StoreError, why
from pruneboard.records import store
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import RunCheck, make_check

State = Mapping[str, Tensor]
"""The tensors of a `model.safetensors`, by name."""

Masks = Sequence[PackedMask] | None
"""The packed masks in the order of the record's layers; None if they could not be read."""

MAX_BYTES = 16 * 2**30
"""A larger `model.safetensors` is not read."""

MAX_HEADER = 8 * 2**20
"""Maximum size in bytes of its header, for about 60,000 tensors: the header takes 30 times as much memory when read."""


def read_shapes(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an untrusted `model.safetensors` on the meta device: shapes from its header, no values.

    Raises:
        StoreError: as for `read_weights`.
    """
    with _errors_converted(path), safe_open(path, framework="pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118 - not a dict


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an untrusted `model.safetensors`.

    Raises:
        StoreError: it is damaged, too large or not a regular file; the message does not contain `path`.
    """
    with _errors_converted(path):
        return dict(load_file(path))


@contextmanager
def _errors_converted(path: Path) -> Iterator[None]:
    """Refuse a file that must not be opened, and convert the errors of the library that reads it."""
    try:
        if store.leads_out(path, path.parent):
            raise StoreError(store.LEADS_OUT)
        if not path.is_file():
            raise StoreError("is not a regular file")  # reading from a pipe would block forever
        if path.stat().st_size > MAX_BYTES:
            raise StoreError(f"is larger than {MAX_BYTES // 2**30} GiB")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise StoreError(f"is not a safetensors file: its header has {header} bytes; at most {MAX_HEADER} are read")
        yield
    except OSError as error:
        raise StoreError(f"cannot be read: {why(error)}") from None
    except (SafetensorError, ValueError, LookupError, RuntimeError, MemoryError) as error:
        raise StoreError(f"is not a safetensors file: {str(error)[:200]}") from None


def check_weights(record: Record, state: State, masks: Masks) -> list[RunCheck]:
    """Hash the weights, count their zeros, and compare these with the masks.

    Args:
        record: a validated record of a finished run.
        state: its weights.
        masks: its masks, if they could be read.
    """
    return [
        make_check("weights.hash", _hash_problems(record, state)),
        make_check("weights.counts", _count_problems(record, state)),
        make_check("weights.mask", _mask_problems(record, state, masks))
        if masks is not None
        else RunCheck("weights.mask", "skipped"),  # the check `mask.file` gives the reason
    ]


def mask_of(packed: PackedMask) -> Tensor:
    """Return a mask as a bool tensor of the weight's shape."""
    return torch.from_numpy(packed.unpack())


def _hash_problems(record: Record, state: State) -> Iterator[str]:
    found, recorded = models.state_sha256(state), record.get("weights_sha256")
    if recorded is None:
        yield "the record has no weights_sha256"
    elif found != recorded:
        yield f"the tensors hash to {found[:12]}...; the record says {recorded[:12]}..."


def _count_problems(record: Record, state: State) -> Iterator[str]:
    for layer in record["sparsity"]["layers"]:
        weight = state.get(f"{layer['name']}.weight")
        if weight is None:
            yield f"layer {layer['name']:.80}: the file has no such weight"
            continue
        counted, recorded = (int((weight != 0).sum()), weight.numel()), (layer["nonzero"], layer["n"])
        if counted != recorded:
            found, expected = ("{} of {}".format(*counts) for counts in (counted, recorded))
            yield f"layer {layer['name']:.80}: {found} weights are not zero; the record says {expected}"


def _mask_problems(record: Record, state: State, masks: Sequence[PackedMask]) -> Iterator[str]:
    kept_zero = 0
    for packed in masks:
        weight = state.get(f"{packed.name}.weight")
        if weight is None or weight.shape != packed.shape:
            yield f"layer {packed.name:.80}: the file has no weight of the mask's shape {packed.shape}"
            continue
        mask = mask_of(packed)
        stray = int(((weight != 0) & ~mask).sum())
        kept_zero += int(((weight == 0) & mask).sum())
        if stray:
            yield f"layer {packed.name:.80}: {stray} weights outside the mask are not zero"
    if kept_zero != record["sparsity"]["kept_zero"]:
        yield f"{kept_zero} kept positions are 0.0; the record says {record['sparsity']['kept_zero']}"
