"""One checkpoint file: tensors and a header, in safetensors' format, in which every damaged byte is noticed.

The metadata entry `pruneboard` is JSON, with the SHA-256 of every tensor. The first bytes of the file, which hold this
entry and the names, types, shapes and places of all tensors, cannot contain their own SHA-256. It is the value of one
more tensor, `header_sha256`, and is filled in after the file is written. So each byte is covered by one checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneboard.errors import printable, why
from pruneboard.models import state_sha256

SCHEMA = 2
METADATA_KEY = "pruneboard"
"""The key of our entry in the metadata of the file."""

HEADER_SHA256 = "header_sha256"
"""The name of the tensor that holds the SHA-256 of the file's first bytes, up to the first tensor."""


class DamagedError(ValueError):
    """A file that is not a checkpoint as it was written; the message is one line without the path."""


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint.

    Args:
        path: the file; not replaced atomically.
        header: JSON values.
        tensors: contiguous tensors on the CPU; none may be called `header_sha256`.

    Raises:
        OSError: the file cannot be written.
    """
    sums = {name: state_sha256({name: tensor}) for name, tensor in tensors.items()}
    text = json.dumps({"schema": SCHEMA, **header, "sha256": sums})
    place = torch.zeros(hashlib.sha256().digest_size, dtype=torch.uint8)
    try:
        save_file({**tensors, HEADER_SHA256: place}, path, {METADATA_KEY: text})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    head = _first_bytes(path)
    with path.open("r+b") as file:
        file.seek(len(head) + json.loads(head[8:])[HEADER_SHA256]["data_offsets"][0])
        file.write(hashlib.sha256(head).digest())


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a checkpoint, after all checksums were compared.

    Raises:
        DamagedError: it cannot be read, or one of its checksums, by name, is not that of the content.
    """
    try:
        if path.exists() and not path.is_file():
            raise DamagedError("it is not a regular file")  # reading a pipe would block forever
        header = _read_header(path)
        tensors = load_file(path)
    except OSError as error:
        raise DamagedError(why(error)) from None
    except SafetensorError as error:
        raise DamagedError(printable(error)) from None
    tensors.pop(HEADER_SHA256)
    for name, tensor in tensors.items():
        if header["sha256"].get(name) != state_sha256({name: tensor}):
            raise DamagedError(f"the checksum of tensor {name} is wrong")
    return header, tensors


def _read_header(path: Path) -> dict[str, Any]:
    """Return our entry of the metadata, after its checksum was compared; nothing else of the file is trusted before."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY, "")
        known = HEADER_SHA256 in file.keys()  # noqa: SIM118 - it is no mapping
        expected = file.get_tensor(HEADER_SHA256).numpy().tobytes() if known else b""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedError(f"its entry {METADATA_KEY!r} is missing or is not JSON") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise DamagedError(f"its format must be {SCHEMA}; found {printable(found)}")
    if hashlib.sha256(_first_bytes(path)).digest() != expected:
        raise DamagedError("the checksum of its header is wrong")
    if not isinstance(header.get("sha256"), dict):
        raise DamagedError("its header has no checksums (`sha256`)")
    return header


def _first_bytes(path: Path) -> bytes:
    """Return the bytes before the first tensor: their number less 8 in 8 bytes, and safetensors' own JSON."""
    with path.open("rb") as file:
        size = file.read(8)
        return size + file.read(int.from_bytes(size, "little"))
