"""The ProbMask gate: one keep-probability per weight, relaxed in training, 0/1 once hardened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.api import Gate

NEVER = 1e-36
"""Stands for 0 inside the odds: log(0) costs a CPU some twenty times an ordinary logarithm."""

SMALLEST_DRAW = 2.0**-25
"""Stands for a draw of exactly 0, which float32 gives once in 2^24: at s = 1 it would make the mask 1/2."""

NOTHING = 1e-26
"""A relaxed mask at or below this is 0: it changes no sum, and products with it would be subnormal and slow."""

BLOCK = 1 << 17
"""Entries per thread that a CPU takes through all operations at a time: in its cache they take less time."""

FEW = 0.25
"""Below this share of undecided probabilities, gathering them costs a CPU less than drawing for all."""


@final
class ProbabilityGate(Gate):
    """Effective weight w * m, with m a relaxed Bernoulli(probability) sample in training.

    Attributes:
        probability: parameter of the weight's shape, in [0, 1] after every projection; 1 at the start. Where
            it is exactly 0 or 1, m equals it, so a hardened gate is one whose probabilities are 0 and 1.
        inverse_temperature: T of the relaxation; set before every step, so it is no state.
        undecided: flat indices of the probabilities strictly between 0 and 1, the only ones drawn for; None
            draws for all. Derived from `probability` before every step, so it is not saved.
    """

    probability: nn.Parameter
    undecided: Tensor | None

    def __init__(self, weight: Tensor, *, learn: bool) -> None:
        """Start with every probability at 1; `learn=False` where the budget keeps everything."""
        super().__init__()
        self.probability = nn.Parameter(torch.ones_like(weight), requires_grad=learn)
        self.inverse_temperature = 1.0
        self.register_buffer("undecided", None, persistent=False)
        self.refresh()

    def refresh(self) -> None:
        """Find the undecided probabilities, where drawing for them alone pays."""
        values = self.probability.detach()
        if values.device.type != "cpu" or not values.is_contiguous():
            self.undecided = None  # an accelerator would wait for the count
            return
        found = np.flatnonzero(((values > 0) & (values < 1)).numpy())
        self.undecided = torch.from_numpy(found) if len(found) < FEW * values.numel() else None

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m in training, and w * probability, the mean of w * Bernoulli, in evaluation."""
        if not self.training or not self.probability.requires_grad:
            return weight * self.probability.detach()
        nothing = self.undecided is not None and not self.undecided.numel()
        generator = None if nothing else self.draw()
        return relaxed(weight, self.probability, self.inverse_temperature, generator, self.undecided)

    def kept(self, weight: Tensor) -> Tensor:
        """Return where the probability is not 0."""
        del weight
        return self.probability.detach() != 0


def relaxed(
    weight: Tensor,
    probability: Tensor,
    inverse_temperature: float,
    generator: torch.Generator | None,
    undecided: Tensor | None = None,
) -> Tensor:
    """Return w * m for one relaxed sample m, differentiable in `weight` and `probability`.

        m = sigmoid(T (logit(s) + logit(u))),   u ~ U(0,1) iid
        dL/dw = g m,   dL/ds = g w T m (1 - m) / (s (1 - s))

    Args:
        weight: w, any shape.
        probability: s, of the same shape, in [0, 1].
        inverse_temperature: T.
        generator: draws u; None where there is nothing to draw.
        undecided: flat indices outside of which every s is 0 or 1, so that m = s whatever is drawn; None
            draws for all.
    """
    return _Relaxed.apply(weight, probability, inverse_temperature, generator, undecided)  # type: ignore[no-any-return]


def sample_mask(probability: Tensor, inverse_temperature: float, draw: Tensor, out: Tensor | None = None) -> Tensor:
    """Return sigmoid(T log(s u / ((1 - s)(1 - u)))), exactly s where s is 0 or 1, in one logarithm.

    Args:
        probability: s.
        inverse_temperature: T.
        draw: u in [0, 1), of the shape of `probability`; overwritten.
        out: takes the result, if given.
    """
    draw.clamp_min_(SMALLEST_DRAW)
    odds = torch.mul(draw, probability, out=out).clamp_min_(NEVER)
    against = draw.neg_().add_(1).mul_(1 - probability).clamp_min_(NEVER)
    mask = odds.div_(against).log_().mul_(inverse_temperature).sigmoid_()
    return functional.threshold(mask, NOTHING, 0.0, inplace=True)


def _slope(probability: Tensor, mask: Tensor, inverse_temperature: float, out: Tensor | None = None) -> Tensor:
    """Return dm/ds = T m (1 - m) / (s (1 - s)); where s is 0 or 1 so is m, and any divisor will do but 0."""
    variance = torch.addcmul(probability, probability, probability, value=-1)
    slope = torch.addcmul(mask, mask, mask, value=-1, out=out).mul_(inverse_temperature)
    return slope.div_(variance.clamp_min_(torch.finfo(variance.dtype).tiny))


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching parts of tensors of one shape, vectors that stay in a CPU's cache; elsewhere, all at once."""
    if tensors[0].device.type != "cpu" or not all(tensor.is_contiguous() for tensor in tensors):
        yield tensors
        return
    size = BLOCK * torch.get_num_threads()
    yield from zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)


class _Relaxed(torch.autograd.Function):
    """Written out because autograd would keep six tensors of the weight's size per layer; this keeps one."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        probability: Tensor,
        inverse_temperature: float,
        generator: torch.Generator | None,
        undecided: Tensor | None,
    ) -> Tensor:
        ctx.inverse_temperature = inverse_temperature
        mask = probability
        if undecided is None:
            mask = torch.empty_like(probability)
            for s, m in _blocks(probability, mask):
                sample_mask(s, inverse_temperature, torch.empty_like(s).uniform_(generator=generator), out=m)
        elif undecided.numel():
            few, mask = probability.view(-1)[undecided], probability.clone()
            mask.view(-1)[undecided] = sample_mask(few, inverse_temperature, torch.rand(few.shape, generator=generator))
        ctx.save_for_backward(weight, probability, mask, undecided)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        (gradient,) = gradients
        weight, probability, mask, undecided = ctx.saved_tensors
        if undecided is None:
            slope = torch.empty_like(probability)
            for s, m, w, g, out in _blocks(probability, mask, weight, gradient, slope):
                _slope(s, m, ctx.inverse_temperature, out=out).mul_(w).mul_(g)
        else:
            slope = torch.zeros_like(probability)
            s, m, w, g = (t.reshape(-1)[undecided] for t in (probability, mask, weight, gradient))
            slope.view(-1)[undecided] = _slope(s, m, ctx.inverse_temperature).mul_(w).mul_(g)
        # The supermask track freezes the weight.
        return gradient * mask if ctx.needs_input_grad[0] else None, slope, None, None, None
