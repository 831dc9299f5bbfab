"""Image operations: decoding, resizing, channel statistics and content hashes."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from pruneboard.errors import DataError

RGB = tuple[float, float, float]
UPRIGHT = 1
"""The EXIF orientation of an image that is stored as it is to be seen."""

_CHUNK = 1024  # images resized at a time: limits the float copy to some tens of MB


def decode(path: Path, stream: IO[bytes] | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB, turned as its EXIF orientation says.

    Args:
        path: the file, which errors name.
        stream: its content, if it has been read already.

    Raises:
        DataError: the file is missing or broken, or has more than 8 bits per channel.
    """
    with _decode_errors(path), Image.open(stream or path) as image:
        _check_depth(image)
        image.load()
        if _orientation(image) != UPRIGHT:
            with suppress(Exception):  # the pixels are turned before other tags, which may be malformed, are rewritten
                ImageOps.exif_transpose(image, in_place=True)
        converted: Image.Image = image.convert("RGB")
        return converted


def image_side(path: Path) -> int:
    """Return the longer side of an image file in pixels; reads only the header."""
    with _decode_errors(path), Image.open(path) as image:
        width, height = image.size
        return max(int(width), int(height))


def check_header(path: Path) -> int:
    """Check that a file is an image that `decode` reads, and that its end is there; decodes it only in case of doubt.

    Errors in the middle of the file are not found.

    Returns:
        The EXIF orientation, 1 to 8; `UPRIGHT` if the file has none.

    Raises:
        DataError: the file is missing, broken or truncated, or has more than 8 bits per channel.
    """
    with _decode_errors(path), path.open("rb") as stream, Image.open(stream) as image:
        _check_depth(image)
        start = stream.tell()
        header_suffices = _HEADER_SUFFICES.get(str(image.format))
        decoded = header_suffices is None or not header_suffices(stream)
        stream.seek(start)
        if decoded:
            image.load()
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, `UPRIGHT` if it has none or its EXIF block is malformed."""
    try:
        # Not image.getexif(): that of a PNG decodes the image.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # noqa: BLE001 - the pixels of such an image can still be used
        return UPRIGHT
    return int(found) if found in range(2, 9) else UPRIGHT


def _check_depth(image: Image.Image) -> None:
    if image.mode[0] in "IF":  # PIL would silently clip these to white
        raise ValueError(f"it has mode {image.mode}, only 8 bits per channel are read")


def _jpeg_is_complete(stream: IO[bytes]) -> bool:
    stream.seek(-2, os.SEEK_END)
    return stream.read() == b"\xff\xd9"


def _webp_is_complete(stream: IO[bytes]) -> bool:
    stream.seek(4)
    stated = int.from_bytes(stream.read(4), "little") + 8
    return stream.seek(0, os.SEEK_END) >= stated


def _png_is_complete(stream: IO[bytes]) -> bool:
    """Return whether the last chunk is there and none may have an orientation; reads only the heads of the chunks."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        if head[4:] in {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}:  # may follow the pixels
            return False
        if head[4:] == b"IEND":
            return len(stream.read(4)) == 4
        stream.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


_HEADER_SUFFICES: dict[str, Callable[[IO[bytes]], bool]] = {
    "JPEG": _jpeg_is_complete,
    "PNG": _png_is_complete,
    "WEBP": _webp_is_complete,
}
"""Format -> whether the end of a file is there and its header shows its orientation; if not, the file is decoded."""


@contextmanager
def _decode_errors(path: Path) -> Iterator[None]:
    """Raise any error of the block as a `DataError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise any type of error on broken files
        raise DataError(f"cannot decode {path}: {_reason(error)}; replace or delete it") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resize a stack of square images with bilinear interpolation.

    Args:
        pixels: uint8 [N, C, H, H].
        size: the new side, in pixels.

    Returns:
        uint8 [N, C, size, size]; `pixels` itself if it has this size already.
    """
    if pixels.shape[-1] == size:
        return pixels
    return torch.cat([_resize(chunk, size) for chunk in torch.split(pixels, _CHUNK)])


def _resize(pixels: Tensor, size: int) -> Tensor:
    shrinks = size < pixels.shape[-1]
    scaled = functional.interpolate(
        pixels.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks
    )
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def channel_statistics(pixels: Tensor) -> tuple[RGB, RGB]:
    """Return mean and standard deviation per channel, for values in [0, 1].

    Sums are computed in integers and divided once, so the result does not depend on the order of summation. A constant
    channel gets a standard deviation of 1, so that normalization maps it to 0.

    Args:
        pixels: uint8 [N, 3, H, W].
    """
    found = [_moments(torch.bincount(pixels[:, c].flatten(), minlength=256).tolist()) for c in range(3)]
    (r, dr), (g, dg), (b, db) = found
    return (r, g, b), (dr, dg, db)


def _moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(level * count for level, count in enumerate(counts))
    second = sum(level**2 * count for level, count in enumerate(counts))
    variance = (total * second - first**2) / (255 * total) ** 2
    return first / (255 * total), math.sqrt(variance) or 1.0


def fingerprint(*parts: str | bytes | Tensor) -> str:
    """Return the SHA-256 of `parts` in order; each is preceded by its length, so that boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        data = memoryview(_raw(part))
        digest.update(f"{data.nbytes}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _raw(part: str | bytes | Tensor) -> bytes | memoryview:
    if isinstance(part, Tensor):
        array = part.contiguous().numpy()
        return array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).data
    return part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
