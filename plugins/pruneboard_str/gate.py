"""The STR gate: soft thresholding with one learned threshold per layer, a plain mask once hardened."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from pruneboard.api import Gate


@final
class ThresholdGate(Gate):
    """Effective weight S_g(w, s) = sign(w) relu(|w| - sigmoid(s)) until it is hardened, w * keep from then on.

    Attributes:
        threshold: parameter s, shape (1,), any number: the threshold of every weight of the layer is sigmoid(s).
        keep: buffer of the weight's shape and dtype, 0/1; ones until the gate is hardened.
        hardened: buffer of shape (1,): 1 where the gate is the mask, else 0.
    """

    threshold: nn.Parameter
    keep: Tensor
    hardened: Tensor

    def __init__(self, weight: Tensor, init: float, *, learn: bool) -> None:
        """Start with s at `init`; with `learn=False`, where nothing is to be pruned, as a mask that keeps all."""
        super().__init__()
        self.threshold = nn.Parameter(weight.new_full((1,), init), requires_grad=learn)
        self.register_buffer("keep", torch.ones_like(weight))
        self.register_buffer("hardened", weight.new_full((1,), float(not learn)))
        self._soft = learn  # `hardened` again: to look at a buffer is to wait for the device, in every forward pass
        self.register_load_state_dict_post_hook(_look)  # type: ignore[no-untyped-call]

    def forward(self, weight: Tensor) -> Tensor:
        """Return the soft-thresholded weight, or, once hardened, `weight * keep`."""
        return soft_threshold(weight, self.threshold) if self._soft else weight * self.keep

    def kept(self, weight: Tensor) -> Tensor:
        """Return where |w| is above the threshold, or, once hardened, the mask."""
        return self.folded(weight) != 0 if self._soft else self.keep != 0

    @torch.no_grad()
    def harden(self, keep: Tensor) -> None:
        """Become the mask `keep`, a tensor of the weight's shape holding 0 and 1 (or bool), for good."""
        self.keep.copy_(keep)
        self.hardened.fill_(1)
        self._soft = False


def _look(gate: nn.Module, incompatible: object) -> None:
    """Follow the buffer `hardened` that was just loaded."""
    del incompatible
    assert isinstance(gate, ThresholdGate)
    gate._soft = not bool(gate.hardened)


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """Return S_g(w, s), differentiable in `weight` and `threshold`.

        S_g(w, s) = sign(w) relu(|w| - g),   g = sigmoid(s)
        dL/dw = dL/dS 1{|w| > g},   dL/ds = -g (1 - g) sum of sign(w) dL/dS over |w| > g

    Where g underflows to 0 this is the identity, and dL/dw = dL/dS whatever w is.

    Args:
        weight: w, any shape.
        threshold: s, shape (1,), of the same dtype.
    """
    return _SoftThreshold.apply(weight, threshold)  # type: ignore[no-any-return]


class _SoftThreshold(torch.autograd.Function):
    """Written out because autograd would keep two more tensors of the weight's size per layer; this keeps none.

    All it needs of the weight is the sign of the result, which the layer that uses the result keeps anyway.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        level = torch.sigmoid(threshold)
        # The same number as sign(w) relu(|w| - g) to the last bit, in half the time on a CPU.
        effective = weight.clamp(-level, level).neg_().add_(weight)
        ctx.save_for_backward(effective, level)
        return effective

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        effective, level = ctx.saved_tensors
        sign = effective.sign()
        slope = (sign * gradient).sum() * level * (level - 1)
        passes = sign.abs_().clamp_min_((level == 0).to(sign.dtype))
        return passes.mul_(gradient), slope
