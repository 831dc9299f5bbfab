"""The weights of a run counted anew: `model.safetensors` against the record and the packed masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pruneboard import models
from pruneboard.errors import StoreError, why
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record
from pruneboard.records.verdicts import RunCheck, make_check

LARGEST_FILE = 16 * 2**30
"""Bytes; larger weights are not read."""


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that anybody may have written.

    Raises:
        StoreError: it is damaged, too large or no regular file; the message does not repeat `path`.
    """
    try:
        if not path.is_file():
            raise StoreError("is not a regular file")  # a pipe would block for ever
        if path.stat().st_size > LARGEST_FILE:
            raise StoreError(f"is larger than {LARGEST_FILE // 2**30} GiB")
        return dict(load_file(path))
    except OSError as error:
        raise StoreError(f"cannot be read: {why(error)}") from None
    except (SafetensorError, ValueError, LookupError, RuntimeError, MemoryError) as error:
        raise StoreError(f"is not a safetensors file: {str(error)[:200]}") from None


def check(record: Record, state: Mapping[str, Tensor], masks: Sequence[PackedMask] | None) -> list[RunCheck]:
    """Return what holds of the weights of a finished run.

    Args:
        record: a validated record.
        state: the tensors of its `model.safetensors`.
        masks: of its layers, in their order; None where they are not known.
    """
    return [
        make_check("weights.hash", _hash_problems(record, state)),
        make_check("weights.counts", _count_problems(record, state)),
        make_check("weights.mask", _mask_problems(record, state, masks))
        if masks is not None
        else RunCheck("weights.mask", "skipped"),  # why there are none stands with `mask.file`
    ]


def mask_of(packed: PackedMask) -> Tensor:
    """Return a mask as a bool tensor of the weight's shape."""
    return torch.from_numpy(packed.unpack())


def _hash_problems(record: Record, state: Mapping[str, Tensor]) -> Iterator[str]:
    found, said = models.state_sha256(state), record.get("weights_sha256")
    if said is None:
        yield "the record names no weights_sha256"
    elif found != said:
        yield f"the tensors hash to {found[:12]}...; the record says {said[:12]}..."


def _count_problems(record: Record, state: Mapping[str, Tensor]) -> Iterator[str]:
    for layer in record["sparsity"]["layers"]:
        weight = state.get(f"{layer['name']}.weight")
        if weight is None:
            yield f"layer {layer['name']:.80}: there is no such weight"
            continue
        found, said = (int((weight != 0).sum()), weight.numel()), (layer["nonzero"], layer["n"])
        if found != said:
            counted, named = ("{} of {}".format(*counts) for counts in (found, said))
            yield f"layer {layer['name']:.80}: {counted} weights are not zero; the record says {named}"


def _mask_problems(record: Record, state: Mapping[str, Tensor], masks: Sequence[PackedMask]) -> Iterator[str]:
    kept_zero = 0
    for packed in masks:
        weight, mask = state.get(f"{packed.name}.weight"), mask_of(packed)
        if weight is None or weight.shape != mask.shape:
            yield f"layer {packed.name:.80}: there is no weight of the mask's shape {packed.shape}"
            continue
        stray = int(((weight != 0) & ~mask).sum())
        kept_zero += int(((weight == 0) & mask).sum())
        if stray:
            yield f"layer {packed.name:.80}: {stray} weights outside the mask are not zero"
    if kept_zero != record["sparsity"]["kept_zero"]:
        yield f"{kept_zero} kept positions hold 0.0; the record says {record['sparsity']['kept_zero']}"
