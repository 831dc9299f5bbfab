"""The ProbMask gate: one keep-probability per weight, relaxed in training, 0/1 once hardened."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.api import Gate

NEVER = 1e-36
"""Stands for 0 inside the odds: log(0) costs a CPU some twenty times an ordinary logarithm."""

NOTHING = 1e-26
"""A relaxed mask at or below this is 0: it changes no sum, and products with it would be subnormal and slow."""


@final
class ProbabilityGate(Gate):
    """Effective weight w * m, with m a relaxed Bernoulli(probability) sample in training.

    Attributes:
        probability: parameter of the weight's shape, in [0, 1] after every projection; 1 at the start. Where
            it is exactly 0 or 1, m equals it, so a hardened gate is one whose probabilities are 0 and 1.
        inverse_temperature: T of the relaxation; set before every step, so it is no state.
        binary: whether all probabilities are known to be 0 or 1, which spares the draw; it changes no bit.
    """

    probability: nn.Parameter

    def __init__(self, weight: Tensor, *, learn: bool) -> None:
        """Start with every probability at 1; `learn=False` where the budget keeps everything."""
        super().__init__()
        self.probability = nn.Parameter(torch.ones_like(weight), requires_grad=learn)
        self.inverse_temperature = 1.0
        self.binary = True

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m in training, and w * probability, the mean of w * Bernoulli, in evaluation."""
        if not self.training or not self.probability.requires_grad:
            return weight * self.probability.detach()
        generator = None if self.binary else self.draw()
        return relaxed(weight, self.probability, self.inverse_temperature, generator)

    def kept(self, weight: Tensor) -> Tensor:
        """Return where the probability is not 0."""
        del weight
        return self.probability.detach() != 0


def relaxed(
    weight: Tensor, probability: Tensor, inverse_temperature: float, generator: torch.Generator | None
) -> Tensor:
    """Return w * m for one relaxed sample m, differentiable in `weight` and `probability`.

        m = sigmoid(T (logit(s) + logit(u))),   u ~ U(0,1) iid
        dL/dw = g m,   dL/ds = g w T m (1 - m) / (s (1 - s))

    Args:
        weight: w, any shape.
        probability: s, of the same shape, in [0, 1].
        inverse_temperature: T.
        generator: draws u; None where every s is 0 or 1, and m = s whatever is drawn.
    """
    return _Relaxed.apply(weight, probability, inverse_temperature, generator)  # type: ignore[no-any-return]


def _sample(probability: Tensor, inverse_temperature: float, generator: torch.Generator) -> Tensor:
    """Return sigmoid(T log(s u / ((1 - s)(1 - u)))), exactly s where s is 0 or 1, in one logarithm."""
    draw = torch.empty_like(probability).uniform_(generator=generator)
    odds = torch.mul(draw, probability).clamp_min_(NEVER)
    against = draw.neg_().add_(1).mul_(1 - probability).clamp_min_(NEVER)
    mask = odds.div_(against).log_().mul_(inverse_temperature).sigmoid_()
    return functional.threshold(mask, NOTHING, 0.0, inplace=True)


class _Relaxed(torch.autograd.Function):
    """Written out because autograd would keep six tensors of the weight's size per layer; this keeps one."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, probability: Tensor, inverse_temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        ctx.inverse_temperature = inverse_temperature
        ctx.drawn = generator is not None
        if generator is None:
            ctx.save_for_backward(weight, probability, probability)
            return weight * probability
        mask = _sample(probability, inverse_temperature, generator)
        ctx.save_for_backward(weight, probability, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        weight, probability, mask = ctx.saved_tensors
        if not ctx.drawn:
            # A zero, not nothing: Adam's step count must not depend on how gradients are reduced.
            return gradient * mask, torch.zeros_like(probability), None, None
        slope = torch.addcmul(mask, mask, mask, value=-1).mul_(ctx.inverse_temperature)
        variance = torch.addcmul(probability, probability, probability, value=-1)
        # Where s is 0 or 1, m equals s and the slope is exactly 0: any divisor will do but 0.
        slope.div_(variance.clamp_min_(torch.finfo(variance.dtype).tiny)).mul_(weight).mul_(gradient)
        return gradient * mask, slope, None, None
