"""The file `mask.npz`: the kept positions of every prunable weight, one bit each. Imports no torch.

The kept positions are those that the method's gate keeps (`Gate.kept`); the audit checks their number against the
budget. Every weight that is not zero is at a kept position. `sparsity.kept_zero` of the kept positions hold 0.0 in
`model.safetensors`. The file makes it possible to check a record's counts if the weights are too large to publish.

It is a zip archive of two byte arrays, which `numpy.load(path, allow_pickle=False)` can read:

    layers   JSON in UTF-8, [[name, [size, ...]], ...]: names and shapes of the weights, in the network's order
    bits     ceil(n / 8) bytes for each layer, as written by `numpy.packbits`: row-major order, the first position in
             the highest bit; the bits after the last position are 0

With one version of zlib, equal masks give equal files. `sha256` is computed over the content instead, and does not
depend on zlib. Files are untrusted: `loads` allocates no more memory than the expected layers need, whatever sizes
the file declares.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruneboard.errors import StoreError

MAX_PACKED_BYTES = 2**28
"""Maximum number of bytes of packed bits that are read, for 2^31 weights."""

_HEADER = 4096  # maximum bytes of the header of a one-dimensional .npy array; numpy writes far less
_MAX_DIMENSIONS = 8
_CHUNK = 2**20  # a small file can unpack to MAX_PACKED_BYTES, so nothing here copies all bits at once
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, MemoryError, RuntimeError)
_WRONG = (ValueError, TypeError, LookupError, ArithmeticError)


class MaskError(StoreError):
    """A file that does not hold the masks of the expected layers; the message does not contain its path."""


@dataclass(frozen=True)
class PackedMask:
    """The mask of one layer.

    Attributes:
        name: name of the layer, as in the record; the weight in `model.safetensors` is `<name>.weight`.
        shape: shape of the weight.
        bits: the mask as ceil(n / 8) bytes.
    """

    name: str
    shape: tuple[int, ...]
    bits: bytes | memoryview

    @property
    def n(self) -> int:
        """Number of positions."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of kept positions."""
        parts = (self.bits[start : start + _CHUNK] for start in range(0, len(self.bits), _CHUNK))
        return sum(int.from_bytes(part, "big").bit_count() for part in parts)

    def unpack(self) -> NDArray[np.bool_]:
        """Return the mask in the weight's shape."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.n).astype(bool).reshape(self.shape)


def pack(name: str, mask: NDArray[np.bool_]) -> PackedMask:
    """Return the packed mask of a layer; the memory layout of `mask` does not matter."""
    return PackedMask(name, mask.shape, np.packbits(mask).tobytes())


def sha256(masks: Iterable[PackedMask]) -> str:
    """Return the hash over names, shapes and bits in the order of the layers, the record's `mask_sha256`."""
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
            # ZipInfo has a fixed date; with a plain name the archive would contain the current time.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


def max_file_size(expected: Sequence[tuple[str, int]]) -> int:
    """Return the maximum size in bytes of a file with the masks of some layers.

    Args:
        expected: (name, n) of each layer.

    Raises:
        MaskError: the layers have more weights than are ever read.
    """
    return _bits_bytes(expected) + _names_bytes(expected) + 4 * _HEADER


def loads(data: bytes, expected: Sequence[tuple[str, int]]) -> list[PackedMask]:
    """Read the masks from the content of an untrusted file.

    Args:
        data: the content, at most `max_file_size` bytes.
        expected: (name, n) of each layer, in order.

    Raises:
        MaskError: the file is damaged, would unpack to more than these layers need, or holds other layers.
    """
    sizes = {"layers": _names_bytes(expected), "bits": _bits_bytes(expected)}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            layers, bits = (_member(archive, name, size + _HEADER) for name, size in sizes.items())
        shapes = _shapes(json.loads(bytes(layers)), expected)
    except _DAMAGED + _WRONG as error:
        raise MaskError(f"is not a mask.npz: {type(error).__name__}: {str(error)[:200]}") from None
    if len(bits) != sizes["bits"]:
        raise MaskError(f"holds {len(bits)} bytes of bits; these layers need {sizes['bits']}")
    return _split(bits, [(name, shape) for (name, _), shape in zip(expected, shapes, strict=True)])


def _bits_bytes(expected: Sequence[tuple[str, int]]) -> int:
    total = sum(-(-n // 8) for _, n in expected)
    if total > MAX_PACKED_BYTES:
        raise MaskError(
            f"would hold the masks of {sum(n for _, n in expected)} weights; at most {8 * MAX_PACKED_BYTES} are read"
        )
    return total


def _names_bytes(expected: Sequence[tuple[str, int]]) -> int:
    # In JSON a character takes at most 12 bytes (an escaped surrogate pair), and a size with its comma 22.
    return sum(12 * len(name) + 22 * _MAX_DIMENSIONS + 16 for name, _ in expected) + 2


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> memoryview:
    """Return the bytes of one array; decompression stops after `limit` bytes."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed by a method that numpy does not use")
    if info.file_size > limit:
        raise ValueError(f"{name} unpacks to {info.file_size} bytes; at most {limit} are needed")
    data = bytearray()
    with archive.open(info) as stream:
        while chunk := stream.read(min(_CHUNK, limit + 1 - len(data))):  # the declared size may be false
            data += chunk
    return _payload(memoryview(data).toreadonly(), name)


def _payload(data: memoryview, name: str) -> memoryview:
    # The header is checked here because numpy's reader would allocate whatever size it declares.
    stream = io.BytesIO(data[: 2 * _HEADER])
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} has another version of numpy's format than 1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that numpy does not write any more
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    start = stream.tell()
    if dtype != np.uint8 or shape != (len(data) - start,):
        raise ValueError(f"{name} is not an array of {len(data) - start} bytes")
    return data[start:]


def _shapes(layers: object, expected: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """Return the shapes given by the file, which must be those of the expected layers."""
    if not isinstance(layers, list) or len(layers) != len(expected):
        raise ValueError(f"it does not list {len(expected)} layers")
    return [_shape(layer, name, n) for layer, (name, n) in zip(layers, expected, strict=True)]


def _shape(layer: Any, name: str, n: int) -> tuple[int, ...]:
    found, sizes = layer  # anything but a pair raises an error of `_WRONG`
    if found != name:
        raise ValueError(f"it has layer {found!r:.80} in the place of {name!r:.80}")
    is_shape = isinstance(sizes, list) and len(sizes) <= _MAX_DIMENSIONS
    if not is_shape or not all(type(size) is int and size > 0 for size in sizes) or math.prod(sizes) != n:
        raise ValueError(f"layer {name!r:.80} has {n} weights, not the shape {sizes!r:.80}")
    return tuple(sizes)


def _split(bits: memoryview, layers: Sequence[tuple[str, tuple[int, ...]]]) -> list[PackedMask]:
    """Split the bits into the masks of the layers."""
    masks, start = [], 0
    for name, shape in layers:
        stop = start + -(-math.prod(shape) // 8)
        mask = PackedMask(name, shape, bits[start:stop])
        if mask.bits and mask.bits[-1] & ((1 << (-mask.n % 8)) - 1):
            raise MaskError(f"has bits after the last position of layer {name!r:.80}")
        masks.append(mask)
        start = stop
    return masks
