"""Augmentation of whole batches on the device: pad and crop, flip, normalize.

What is drawn is drawn on the CPU for the global batch and then sliced, so an image's crop and flip do not
depend on the device or on how many processes share the batch.
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
"""What a recipe may ask for; `imagenet` happens in the loader's workers, file by file."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What was drawn for a batch of B images.

    Attributes:
        pad: zeros added on each side, in pixels.
        top: int64 [B], first row of the crop in the padded image.
        left: int64 [B], first column.
        flip: bool [B], whether the crop is mirrored left to right.
    """

    pad: int
    top: Tensor
    left: Tensor
    flip: Tensor

    def part(self, span: range) -> Draws:
        """Return the draws of the images at positions `span`."""
        cut = slice(span.start, span.stop)
        return Draws(self.pad, self.top[cut], self.left[cut], self.flip[cut])

    def apply(self, images: Tensor) -> Tensor:
        """Return the crops of `images`, uint8 [B, 3, S, S], of the same shape and on the same device."""
        if images.device.type == "cpu":
            return self._apply_rows(images)
        size = images.shape[-1]
        padded = functional.pad(images, (self.pad,) * 4)
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view: every crop there could be
        each = torch.arange(len(images), device=images.device)
        crops = windows[each, :, self.top.to(images.device), self.left.to(images.device)]
        return torch.where(self.flip.to(images.device)[:, None, None, None], crops.flip(3), crops)

    def _apply_rows(self, images: Tensor) -> Tensor:
        """Return the same crops by copying whole rows of pixels, several times as fast on a CPU."""
        count, _, size, _ = images.shape
        padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *(self.pad,) * 4)).contiguous().numpy()
        side = padded.shape[1]
        # A view: every row that a crop may have, as one item of 3 * size bytes.
        windows: Any = np.ndarray(
            (count, side, side - size + 1), f"V{3 * size}", padded.data, strides=(3 * side * side, 3 * side, 3)
        )
        each = torch.arange(count)[:, None].numpy()
        rows = self.top[:, None] + torch.arange(size)
        cropped = windows[each, rows.numpy(), self.left[:, None].numpy()].view(np.uint8)
        crops = torch.from_numpy(cropped).view(count, size, size, 3)
        turned = self.flip.nonzero().flatten()
        # Of four dimensions in this layout torch has a fast flip.
        crops[turned] = crops[turned].permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)
        return crops.permute(0, 3, 1, 2)


def draw(mode: str, count: int, size: int, seed: int) -> Draws | None:
    """Draw crops and flips for `count` images of side `size`; None where `mode` leaves them alone.

    Args:
        mode: one of `MODES`.
        count: images in the global batch.
        size: their side, in pixels; an eighth of it is padded.
        seed: of this batch.
    """
    if mode not in CROPPED:
        return None
    generator = torch.Generator().manual_seed(seed)
    pad = size // 8
    top, left = torch.randint(2 * pad + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    return Draws(pad, top, left, flip if mode in FLIPPED else torch.zeros_like(flip))


class Normalize:
    """`(x / 255 - mean) / std` in float32, on one device."""

    def __init__(self, mean: RGB, std: RGB, device: torch.device) -> None:
        """Put the constants on `device`, where all batches will be."""
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 [B, 3, S, S] as normalized float32, channels last in memory.

        Convolutions keep that layout from layer to layer, and small ones run up to 1.7 times faster in it.
        """
        pixels = images.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        # One row of constants per image row: over three of them at a time a CPU cannot run along.
        width = pixels.shape[2]
        rows = pixels.view(len(pixels), -1, 3 * width)
        rows.div_(255).sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return pixels.permute(0, 3, 1, 2)
