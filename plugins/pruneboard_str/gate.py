"""The STR gate: soft thresholding with one learned threshold per layer; a fixed mask once hardened.

    S_g(w, s) = sign(w) relu(|w| - g),   g = sigmoid(s)

Every weight shrinks by the threshold g, and those with |w| <= g become exactly 0. The threshold is learned through
its logit s: dL/ds is -g'(s) times the sum of sign(w) dL/dS over the weights above the threshold.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from pruneboard.api import Gate


@final
class ThresholdGate(Gate):
    """Effective weight S_g(w, s) = sign(w) relu(|w| - sigmoid(s)); once hardened, w * keep.

    Attributes:
        threshold: parameter s, shape (1,), any real number; sigmoid(s) is the threshold of every weight of the layer.
        keep: buffer of the weight's shape and dtype, 0/1; ones until the gate is hardened.
        hardened: buffer of shape (1,): 1 where the gate applies `keep`, 0 where it applies the threshold.
    """

    threshold: nn.Parameter
    keep: Tensor
    hardened: Tensor

    def __init__(self, weight: Tensor, init: float, *, learn: bool) -> None:
        """Start with s at `init`; with `learn=False` (nothing to prune), start hardened with a mask of ones."""
        super().__init__()
        self.threshold = nn.Parameter(weight.new_full((1,), init), requires_grad=learn)
        self.register_buffer("keep", torch.ones_like(weight))
        self.register_buffer("hardened", weight.new_full((1,), float(not learn)))
        # A Python copy of `hardened`: reading the buffer in every forward pass would synchronize an accelerator.
        self._soft = learn
        self.register_load_state_dict_post_hook(_restore_soft)  # type: ignore[no-untyped-call]

    def forward(self, weight: Tensor) -> Tensor:
        """Return the soft-thresholded weight, or `weight * keep` once hardened."""
        return soft_threshold(weight, self.threshold) if self._soft else weight * self.keep

    def kept(self, weight: Tensor) -> Tensor:
        """Return where |w| is above the threshold, or the mask once hardened."""
        return self.folded(weight) != 0 if self._soft else self.keep != 0

    @torch.no_grad()
    def harden(self, keep: Tensor) -> None:
        """Apply the mask `keep` from now on: a tensor of the weight's shape holding 0 and 1 (or bool)."""
        self.keep.copy_(keep)
        self.hardened.fill_(1)
        self._soft = False


def _restore_soft(gate: nn.Module, incompatible: object) -> None:
    """Set the Python copy from the buffer `hardened` that was just loaded."""
    del incompatible
    assert isinstance(gate, ThresholdGate)
    gate._soft = not bool(gate.hardened)


def soft_threshold(weight: Tensor, threshold: Tensor) -> Tensor:
    """Return S_g(w, s), differentiable in `weight` and `threshold`.

        S_g(w, s) = sign(w) relu(|w| - g),   g = sigmoid(s)
        dL/dw = dL/dS 1{|w| > g},   dL/ds = -g (1 - g) sum of sign(w) dL/dS over |w| > g

    Where g underflows to 0 (s below -104 in float32) this is the identity, and dL/dw = dL/dS for every w.

    Args:
        weight: w, any shape.
        threshold: s, shape (1,), of the same dtype.
    """
    return _SoftThreshold.apply(weight, threshold)  # type: ignore[no-any-return]


class _SoftThreshold(torch.autograd.Function):
    """The forward and backward pass of `soft_threshold`.

    Autograd through the formula would keep two more tensors of the weight's size per layer. The backward pass needs
    only the sign of the result, and the layer that uses the result keeps it anyway.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor) -> Tensor:
        level = torch.sigmoid(threshold)
        # w - clamp(w, -g, g) equals sign(w) relu(|w| - g) to the last bit, in half the time on a CPU.
        effective = weight.clamp(-level, level).neg_().add_(weight)
        ctx.save_for_backward(effective, level)
        return effective

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        effective, level = ctx.saved_tensors
        sign = effective.sign()  # of w, and 0 where |w| <= g
        slope = (sign * gradient).sum() * level * (level - 1)  # g'(s) = g (1 - g)
        # Where g underflowed to 0 nothing is pruned, and a weight of exactly 0 gets its gradient too.
        passes = sign.abs_().clamp_min_((level == 0).to(sign.dtype))
        return passes.mul_(gradient), slope
