"""Packed masks, `mask.npz`: which positions of every prunable weight a run keeps, one bit each. Imports no torch.

Kept are the positions that the method's gate keeps (`Gate.kept`), which the audit holds to the budget. As many as
the record's `sparsity.kept_zero` of them may hold 0.0 in `model.safetensors`; every weight that is not 0 stands at a
kept position. With the file a record's counts can be checked where the weights were too large to publish.

It is a zip of two arrays of bytes, which `numpy.load(path, allow_pickle=False)` opens:

    layers   JSON in UTF-8, [[name, [size, ...]], ...]: names and shapes of the weights, in the network's order
    bits     for each layer ceil(n / 8) bytes, as `numpy.packbits` makes them: row-major order, the first position in
             the highest bit; the bits behind the last position are 0

Equal masks make equal files (under one zlib); `sha256` is over the content, so that it outlasts another zlib.
Masks come from strangers too: `loads` believes no size that the file declares.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruneboard.errors import StoreError

LARGEST = 2**28
"""Bytes of packed bits, 2^31 weights; more are not read."""

_HEADER = 4096  # of an .npy member whose shape is one number: far more than numpy writes
_MOST_DIMENSIONS = 8
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, MemoryError, RuntimeError)
_WRONG = (ValueError, TypeError, LookupError, ArithmeticError)


class MaskError(StoreError):
    """A file that holds no masks of the layers asked for; the message does not repeat its path."""


@dataclass(frozen=True)
class PackedMask:
    """The mask of one layer.

    Attributes:
        name: the layer's, as the record has it; the weight in `model.safetensors` is `<name>.weight`.
        shape: of the weight.
        bits: ceil(n / 8) bytes.
    """

    name: str
    shape: tuple[int, ...]
    bits: bytes

    @property
    def n(self) -> int:
        """Positions of the weight."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Positions that are kept."""
        return int.from_bytes(self.bits, "big").bit_count()

    def unpack(self) -> NDArray[np.bool_]:
        """Return the mask in the weight's shape."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.n).astype(bool).reshape(self.shape)


def pack(name: str, mask: NDArray[np.bool_]) -> PackedMask:
    """Return the packed mask of a layer, whatever the memory layout of `mask`."""
    return PackedMask(name, mask.shape, np.packbits(mask).tobytes())


def sha256(masks: Iterable[PackedMask]) -> str:
    """Return one hash over names, shapes and bits, in the order of the layers: the record's `mask_sha256`."""
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(json.dumps([mask.name, mask.shape]).encode())
        digest.update(mask.bits)
    return digest.hexdigest()


def dumps(masks: Sequence[PackedMask]) -> bytes:
    """Return the content of `mask.npz`."""
    layers = json.dumps([[mask.name, mask.shape] for mask in masks]).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("layers", layers), ("bits", b"".join(mask.bits for mask in masks))):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.frombuffer(data, np.uint8), version=(1, 0), allow_pickle=False)
            # A ZipInfo of our own has a fixed date; by a bare name the archive would note the time.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


def max_file_size(expected: Sequence[tuple[str, int]]) -> int:
    """Return how many bytes a file with the masks of these layers, (name, n), can have at most.

    Raises:
        MaskError: more weights than are ever read.
    """
    return _bits_bytes(expected) + _names_bytes(expected) + 4 * _HEADER


def loads(data: bytes, expected: Sequence[tuple[str, int]]) -> list[PackedMask]:
    """Return the masks that `data`, the content of a file anybody may have written, holds of these layers.

    Args:
        data: no longer than `max_file_size`.
        expected: (name, n) of each layer, in order.

    Raises:
        MaskError: it is damaged, would unpack to more than these layers take, or is of other layers.
    """
    most = {"layers": _names_bytes(expected), "bits": _bits_bytes(expected)}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            layers, bits = (_member(archive, name, size + _HEADER) for name, size in most.items())
        shapes = _shapes(json.loads(layers), expected)
    except _DAMAGED + _WRONG as error:
        raise MaskError(f"is not a mask.npz: {type(error).__name__}: {str(error)[:200]}") from None
    if len(bits) != most["bits"]:
        raise MaskError(f"holds {len(bits)} bytes of bits where these layers take {most['bits']}")
    return _cut(bits, [(name, shape) for (name, _), shape in zip(expected, shapes, strict=True)])


def _bits_bytes(expected: Sequence[tuple[str, int]]) -> int:
    total = sum(-(-n // 8) for _, n in expected)
    if total > LARGEST:
        raise MaskError(
            f"would hold the masks of {sum(n for _, n in expected)} weights: {8 * LARGEST} are read at most"
        )
    return total


def _names_bytes(expected: Sequence[tuple[str, int]]) -> int:
    # A character takes at most the 12 of an escaped surrogate pair, a size and its comma 22.
    return sum(12 * len(name) + 22 * _MOST_DIMENSIONS + 16 for name, _ in expected) + 2


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return the bytes of one array; decompression stops where they would be more than `most`."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that is not numpy's")
    if info.file_size > most:
        raise ValueError(f"{name} unpacks to {info.file_size} bytes where {most} are enough")
    with archive.open(info) as stream:
        data = stream.read(most + 1)
    return _payload(data, name)


def _payload(data: bytes, name: str) -> bytes:
    # The header is looked at first: numpy's own reader allocates whatever it declares.
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is of another version of numpy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    start = stream.tell()
    if dtype != np.uint8 or shape != (len(data) - start,):
        raise ValueError(f"{name} is not an array of {len(data) - start} bytes")
    return data[start:]


def _shapes(layers: object, expected: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """Return the shapes that the file gives, if they are of the layers expected."""
    if not isinstance(layers, list) or len(layers) != len(expected):
        raise ValueError(f"it does not list {len(expected)} layers")
    return [_shape(layer, name, n) for layer, (name, n) in zip(layers, expected, strict=True)]


def _shape(layer: Any, name: str, n: int) -> tuple[int, ...]:
    found, sizes = layer  # what is no pair is refused as any other wrong value
    if found != name:
        raise ValueError(f"layer {name!r:.80} is expected where it has {found!r:.80}")
    whole = isinstance(sizes, list) and len(sizes) <= _MOST_DIMENSIONS and all(type(s) is int and s > 0 for s in sizes)
    if not whole or math.prod(sizes) != n:
        raise ValueError(f"layer {name!r:.80} has {n} weights, not the shape {sizes!r:.80}")
    return tuple(sizes)


def _cut(bits: bytes, layers: Sequence[tuple[str, tuple[int, ...]]]) -> list[PackedMask]:
    """Divide the bits among the layers."""
    masks, start = [], 0
    for name, shape in layers:
        stop = start + -(-math.prod(shape) // 8)
        mask = PackedMask(name, shape, bits[start:stop])
        if mask.bits and mask.bits[-1] & ((1 << (-mask.n % 8)) - 1):
            raise MaskError(f"has bits behind the last position of layer {name!r:.80}")
        masks.append(mask)
        start = stop
    return masks
