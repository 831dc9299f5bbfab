"""Augmentation of whole batches on the device: pad and crop, flip, normalize.

Crops and flips are drawn on the CPU for the global batch, and each process takes the part for its images. The crop and
flip of an image therefore depend neither on the device nor on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneboard.data.images import RGB

CROPPED = ("crop", "crop-flip")
FLIPPED = ("crop-flip",)
MODES = ("none", *CROPPED, "imagenet")
"""Values of a recipe's `augment`; `imagenet` is applied to each file by the loader's workers (`stream`)."""


@dataclass(frozen=True, eq=False)
class CropsAndFlips:
    """Random crops and flips of a batch of B images.

    Attributes:
        pad: width of the zero padding on each side, in pixels.
        top: int64 [B], first row of the crop in the padded image.
        left: int64 [B], first column.
        flip: bool [B], whether the crop is mirrored left to right.
    """

    pad: int
    top: Tensor
    left: Tensor
    flip: Tensor

    def part(self, span: range) -> CropsAndFlips:
        """Return the crops and flips of the images at positions `span`."""
        rows = slice(span.start, span.stop)
        return CropsAndFlips(self.pad, self.top[rows], self.left[rows], self.flip[rows])

    def apply(self, images: Tensor) -> Tensor:
        """Return crops of `images`, uint8 [B, 3, S, S], with the same shape and device."""
        if images.device.type == "cpu":
            return self._apply_rows(images)
        size = images.shape[-1]
        padded = functional.pad(images, (self.pad,) * 4)
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view of all crops, [B, 3, top, left, S, S]
        batch = torch.arange(len(images), device=images.device)
        crops = windows[batch, :, self.top.to(images.device), self.left.to(images.device)]
        return torch.where(self.flip.to(images.device)[:, None, None, None], crops.flip(3), crops)

    def _apply_rows(self, images: Tensor) -> Tensor:
        """Return the same crops by copying whole rows of pixels, which is several times as fast on a CPU."""
        count, _, size, _ = images.shape
        padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *(self.pad,) * 4)).contiguous().numpy()
        side = padded.shape[1]
        # A view of every possible row of a crop, each one item of 3 * size bytes (channels last: a row is contiguous).
        windows: Any = np.ndarray(
            (count, side, side - size + 1), f"V{3 * size}", padded.data, strides=(3 * side * side, 3 * side, 3)
        )
        batch = torch.arange(count)[:, None].numpy()
        rows = self.top[:, None] + torch.arange(size)
        cropped = windows[batch, rows.numpy(), self.left[:, None].numpy()].view(np.uint8)
        crops = torch.from_numpy(cropped).view(count, size, size, 3)
        flipped = self.flip.nonzero().flatten()
        # torch's flip is fast on four dimensions in channels-last layout.
        crops[flipped] = crops[flipped].permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)
        return crops.permute(0, 3, 1, 2)


def draw(mode: str, count: int, size: int, seed: int) -> CropsAndFlips | None:
    """Draw crops and flips for a global batch; None if `mode` has none.

    Args:
        mode: one of `MODES`.
        count: number of images in the global batch.
        size: side of the images, in pixels; the padding is an eighth of it.
        seed: seed of this batch.
    """
    if mode not in CROPPED:
        return None
    generator = torch.Generator().manual_seed(seed)
    pad = size // 8
    top, left = torch.randint(2 * pad + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    return CropsAndFlips(pad, top, left, flip if mode in FLIPPED else torch.zeros_like(flip))


class Normalize:
    """Computes `(x / 255 - mean) / std` in float32."""

    def __init__(self, mean: RGB, std: RGB, device: torch.device) -> None:
        """Copy the constants to `device`, where the images must be."""
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return `images`, uint8 [B, 3, S, S], as normalized float32 in channels-last memory format.

        Convolutions keep this layout from layer to layer; small ones run up to 1.7 times faster in it.
        """
        pixels = images.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        # Repeat the constants over a whole image row: a CPU cannot vectorize over three values at a time.
        width = pixels.shape[2]
        rows = pixels.view(len(pixels), -1, 3 * width)
        rows.div_(255).sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return pixels.permute(0, 3, 1, 2)
