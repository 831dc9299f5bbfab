"""The ProbMask gate: one keep-probability per weight, relaxed in training, 0/1 once hardened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.api import Gate
from pruneboard_probmask import bulk

NEVER = 1e-36
"""Stands for 0 inside the odds: log(0) costs a CPU some twenty times an ordinary logarithm."""

SMALLEST_DRAW = 2.0**-25
"""Stands for a draw of exactly 0, which float32 gives once in 2^24: at s = 1 it would make the mask 1/2."""

NOTHING = 1e-26
"""A relaxed mask at or below this is 0: it changes no sum, and products with it would be subnormal and slow."""

FEW, FEW_OF_MANY = 0.25, 0.4
"""Below this share of undecided probabilities, gathering them costs a CPU less than drawing for all.

Of a large layer the second; the small ones of the committed boards were drawn for by the first.
"""


@final
class ProbabilityGate(Gate):
    """Effective weight w * m, with m a relaxed Bernoulli(probability) sample in training.

    Attributes:
        probability: parameter of the weight's shape, in [0, 1] after every projection; 1 at the start. Where
            it is exactly 0 or 1, m equals it, so a hardened gate is one whose probabilities are 0 and 1.
        inverse_temperature: T of the relaxation; set before every step, so it is no state.
        undecided: flat indices of the probabilities strictly between 0 and 1, the only ones drawn for; None
            draws for all. Derived from `probability` before every step, so it is not saved.
        room: [2, *shape], where m and w * m of a large weight stand in every pass, on a CPU; not saved either.
    """

    probability: nn.Parameter
    undecided: Tensor | None
    room: Tensor | None

    def __init__(self, weight: Tensor, *, learn: bool) -> None:
        """Start with every probability at 1; `learn=False` where the budget keeps everything."""
        super().__init__()
        self.probability = nn.Parameter(torch.ones_like(weight), requires_grad=learn)
        self.inverse_temperature = 1.0
        self.register_buffer("undecided", None, persistent=False)
        self.register_buffer("room", None, persistent=False)
        self.refresh()

    def refresh(self) -> None:
        """Find the undecided probabilities, where drawing for them alone pays."""
        values = self.probability.detach()
        if values.device.type != "cpu" or not values.is_contiguous():
            self.undecided = None  # an accelerator would wait for the count
            return
        self.undecided = bulk.between(values, most=FEW_OF_MANY if bulk.is_large(values) else FEW)

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m in training, and w * probability, the mean of w * Bernoulli, in evaluation."""
        if not self.training or not self.probability.requires_grad:
            return weight * self.probability.detach()
        if self.room is None and bulk.is_large(weight):
            self.room = torch.empty(2, *weight.shape)
        nothing = self.undecided is not None and not self.undecided.numel()
        generator = None if nothing else self.draw()
        return relaxed(weight, self.probability, self.inverse_temperature, generator, self.undecided, self.room)

    def spare(self) -> Tensor | None:
        """Return a tensor of the weight's shape that stands unused between two passes, if there is one."""
        return None if self.room is None else self.room[0]

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
    room: Tensor | None = None,
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
        room: [2, *shape], takes m and w * m, which are allocated without it. To go backward after a later call has
            taken the same room is an error, which autograd raises.
    """
    return _Relaxed.apply(  # type: ignore[no-any-return]
        weight, probability, inverse_temperature, generator, undecided, room
    )


def sample_mask(
    probability: Tensor,
    inverse_temperature: float,
    draw: Tensor,
    out: Tensor | None = None,
    log_: Callable[[Tensor], Tensor] = torch.log_,
) -> Tensor:
    """Return sigmoid(T log(s u / ((1 - s)(1 - u)))), exactly s where s is 0 or 1, in one logarithm.

    Args:
        probability: s.
        inverse_temperature: T.
        draw: u in [0, 1), of the shape of `probability`; overwritten.
        out: takes the result, if given.
        log_: replaces a tensor by its logarithm.
    """
    draw.clamp_min_(SMALLEST_DRAW)
    odds = torch.mul(draw, probability, out=out).clamp_min_(NEVER)
    against = torch.sub(1, draw, out=draw).mul_(1 - probability).clamp_min_(NEVER)
    mask = log_(odds.div_(against)).mul_(inverse_temperature).sigmoid_()
    return functional.threshold(mask, NOTHING, 0.0, inplace=True)


def _slope(probability: Tensor, mask: Tensor, inverse_temperature: float, out: Tensor | None = None) -> Tensor:
    """Return dm/ds = T m (1 - m) / (s (1 - s)); where s is 0 or 1 so is m, and any divisor will do but 0."""
    variance = torch.addcmul(probability, probability, probability, value=-1)
    slope = torch.addcmul(mask, mask, mask, value=-1, out=out).mul_(inverse_temperature)
    return slope.div_(variance.clamp_min_(torch.finfo(variance.dtype).tiny))


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
        room: Tensor | None,
    ) -> Tensor:
        ctx.inverse_temperature = inverse_temperature
        # Detached, they still share the room's count of writes, by which autograd finds what is used too late.
        mask, product = (torch.empty_like(weight) if room is None else room[part].detach() for part in range(2))
        if undecided is not None:
            torch.mul(weight, probability, out=product)
            few = _draw_few(weight, probability, inverse_temperature, generator, undecided, product)
            ctx.save_for_backward(probability, undecided, *few)
            return product
        assert generator is not None
        source = bulk.source(generator, probability)
        for s, m, w, out in bulk.blocks(probability, mask, weight, product):
            sample_mask(s, inverse_temperature, source.uniform(s), out=m, log_=source.log_)
            torch.mul(w, m, out=out)
        ctx.save_for_backward(probability, None, weight, mask)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:
        probability, undecided, *saved = ctx.saved_tensors
        heat = ctx.inverse_temperature
        # A convolution's gradient has at times another layout than its weight, and blocks must match.
        gradient = gradients[0].contiguous() if probability.is_contiguous() else gradients[0]
        # The supermask track freezes the weight.
        by_weight = torch.empty_like(probability) if ctx.needs_input_grad[0] else None
        if undecided is None:
            weight, mask = saved
            by_probability = _slopes(probability, weight, mask, gradient, heat, by_weight)
        else:
            s, w, m = saved
            by_probability = _slopes_of_few(probability, undecided, s, w, m, gradient, heat, by_weight)
        return by_weight, by_probability, None, None, None, None


def _slopes(
    probability: Tensor,
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor,
    inverse_temperature: float,
    by_weight: Tensor | None,
) -> Tensor:
    """Return dL/ds; dL/dw goes into `by_weight`, if any."""
    slope = torch.empty_like(probability)
    results = [slope] if by_weight is None else [slope, by_weight]
    for s, m, w, g, out, *scaled in bulk.blocks(probability, mask, weight, gradient, *results):
        _slope(s, m, inverse_temperature, out=out).mul_(w).mul_(g)
        for product in scaled:
            torch.mul(g, m, out=product)
    return slope


def _draw_few(
    weight: Tensor,
    probability: Tensor,
    inverse_temperature: float,
    generator: torch.Generator | None,
    undecided: Tensor,
    product: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, w and m at the flat indices `undecided`, and put w * m there into `product`."""
    s, w = (tensor.reshape(-1).index_select(0, undecided) for tensor in (probability, weight))
    m = torch.empty_like(s)
    if undecided.numel():
        assert generator is not None
        source, flat = bulk.source(generator, probability), product.view(-1)
        for places, s_part, w_part, m_part in bulk.blocks(undecided, s, w, m):
            sample_mask(s_part, inverse_temperature, source.uniform(s_part), out=m_part, log_=source.log_)
            flat.index_copy_(0, places, w_part * m_part)
    return s, w, m


def _slopes_of_few(
    probability: Tensor,
    undecided: Tensor,
    s: Tensor,
    w: Tensor,
    m: Tensor,
    gradient: Tensor,
    inverse_temperature: float,
    by_weight: Tensor | None,
) -> Tensor:
    """Return dL/ds, which is 0 but for `undecided`, where `s`, `w` and `m` are; dL/dw goes into `by_weight`, if any."""
    slope = torch.zeros_like(probability)
    if by_weight is not None:
        torch.mul(gradient, probability, out=by_weight)
    flat = [result.view(-1) for result in (slope, by_weight) if result is not None]
    for places, s_part, w_part, m_part in bulk.blocks(undecided, s, w, m):
        g_part = gradient.view(-1).index_select(0, places)
        parts = _slope(s_part, m_part, inverse_temperature).mul_(w_part).mul_(g_part), g_part * m_part
        for result, part in zip(flat, parts, strict=False):  # the second is not always wanted
            result.index_copy_(0, places, part)
    return slope
