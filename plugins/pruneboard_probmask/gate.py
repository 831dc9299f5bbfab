"""The ProbMask gate: one keep-probability per weight, relaxed in training, 0/1 once hardened.

The relaxation is the binary Concrete (Gumbel-softmax) distribution. For a weight with keep-probability s:

    m = sigmoid(T (logit s + g)),   g = logit u ~ Logistic(0, 1),   u ~ U(0, 1)

T is the inverse temperature, 1 or more. As T grows, m tends to 1{u > 1 - s}, a sample of Bernoulli(s); for small T
the mean of m is above a small s. Unlike that sample, m is differentiable in s, and backpropagation reaches s:

    dm/ds = T m (1 - m) / (s (1 - s))

The ends of [0, 1] need care, because every probability starts at 1 and most end at 0. There logit s is infinite
and dm/ds is 0/0. Clamping the odds and the divisor (`ODDS_FLOOR`, `_mask_derivative`) makes m exactly s and the
gradient exactly 0. So no gradient moves a probability that is exactly 0 or 1; only the projection and Adam's momentum
do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.api import Gate
from pruneboard_probmask import bulk

ODDS_FLOOR = 1e-36
"""Replaces a smaller numerator or divisor of the odds: log(0) takes a CPU about 20 times as long as another log."""

MIN_DRAW = 2.0**-25
"""Replaces a draw of exactly 0, which float32 produces once in 2^24 draws: at s = 1 it would make the mask 1/2."""

MASK_FLOOR = 1e-26
"""A relaxed mask at or below this becomes 0: it changes no sum, and its products would be subnormal and slow."""

GATHER_BELOW, GATHER_BELOW_LARGE = 0.25, 0.4
"""Share of undecided probabilities below which a CPU gathers them; drawing for all is faster above it.

The second applies to large layers (`bulk.is_large`). The first is kept for the small layers of the committed boards:
it decides which random numbers they draw.
"""


@final
class ProbabilityGate(Gate):
    """Effective weight w * m, where m is a relaxed sample of Bernoulli(probability) in training.

    Attributes:
        probability: parameter s of the weight's shape, in [0, 1] after every projection; starts at 1. Where s is
            exactly 0 or 1, m equals s, so a hardened gate is one whose probabilities are all 0 or 1.
        inverse_temperature: T of the relaxation; set before every step, so it needs no saving.
        hardened: whether every probability is 0 or 1 for good. On an accelerator, where `undecided` is None, this saves
            the draws. It changes no result, so it is not saved: fine-tuning that is resumed draws again.
        undecided: flat indices, int64, of the probabilities strictly between 0 and 1, the only ones that need a
            draw; None to draw for all. Derived from `probability` before every step, so it is not saved.
        workspace: [2, *shape], memory for m and w * m that every pass of a large weight on a CPU reuses; not saved.
    """

    probability: nn.Parameter
    undecided: Tensor | None
    workspace: Tensor | None

    def __init__(self, weight: Tensor, *, learn: bool) -> None:
        """Start with every probability at 1; pass `learn=False` where the budget keeps everything."""
        super().__init__()
        self.probability = nn.Parameter(torch.ones_like(weight), requires_grad=learn)
        self.inverse_temperature = 1.0
        self.hardened = False
        self.register_buffer("undecided", None, persistent=False)
        self.register_buffer("workspace", None, persistent=False)
        self.refresh()

    def refresh(self) -> None:
        """Update `undecided` from the probabilities; None where drawing for all of them is faster."""
        values = self.probability.detach()
        if values.device.type != "cpu" or not values.is_contiguous():
            self.undecided = None  # counting them would synchronize an accelerator
            return
        limit = GATHER_BELOW_LARGE if bulk.is_large(values) else GATHER_BELOW
        self.undecided = bulk.interior_indices(values, max_share=limit)

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m in training, and w * probability, the mean of w * Bernoulli, in evaluation."""
        plain = self.hardened and self.undecided is None  # m = s, and its derivative is 0
        if plain or not self.training or not self.probability.requires_grad:
            return weight * self.probability.detach()
        if self.workspace is None and bulk.is_large(weight):
            self.workspace = torch.empty(2, *weight.shape)
        all_decided = self.undecided is not None and not self.undecided.numel()
        generator = None if all_decided else self.draw()
        return relaxed(weight, self.probability, self.inverse_temperature, generator, self.undecided, self.workspace)

    def spare_buffer(self) -> Tensor | None:
        """Return memory of the weight's shape that is unused between two passes, or None if there is none."""
        return None if self.workspace is None else self.workspace[0]

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
    workspace: Tensor | None = None,
) -> Tensor:
    """Return w * m for one relaxed sample m, differentiable in `weight` and `probability`.

        m = sigmoid(T (logit(s) + logit(u))),   u ~ U(0,1) iid
        dL/dw = g m,   dL/ds = g w T m (1 - m) / (s (1 - s)),   g = dL/d(w m)

    Args:
        weight: w, any shape.
        probability: s, of the same shape, in [0, 1].
        inverse_temperature: T.
        generator: draws u; may be None where `undecided` is empty.
        undecided: flat indices outside of which every s is 0 or 1, so that m = s there without a draw; None draws
            for all.
        workspace: [2, *shape], memory for m and w * m; allocated if None. If a later call reuses it, going
            backward through this one is an error, which autograd raises.
    """
    return _Relaxed.apply(  # type: ignore[no-any-return]
        weight, probability, inverse_temperature, generator, undecided, workspace
    )


def sample_mask(
    probability: Tensor,
    inverse_temperature: float,
    draw: Tensor,
    out: Tensor | None = None,
    log_: Callable[[Tensor], Tensor] = torch.log_,
) -> Tensor:
    """Return the relaxed mask sigmoid(T log(s u / ((1 - s)(1 - u)))), exactly s where s is 0 or 1.

    This is sigmoid(T (logit s + logit u)) with one logarithm instead of four.

    Args:
        probability: s.
        inverse_temperature: T, 1 or more.
        draw: u in [0, 1), of the shape of `probability`; overwritten.
        out: receives the result, if given.
        log_: replaces a tensor by its logarithm in place.
    """
    # In float32, s = 1 gives odds of 3e28 or more, whose sigmoid rounds to 1, and s = 0 gives odds of 2e-29 or
    # less, whose sigmoid is below MASK_FLOOR.
    draw.clamp_min_(MIN_DRAW)
    odds = torch.mul(draw, probability, out=out).clamp_min_(ODDS_FLOOR)
    against = torch.sub(1, draw, out=draw).mul_(1 - probability).clamp_min_(ODDS_FLOOR)
    mask = log_(odds.div_(against)).mul_(inverse_temperature).sigmoid_()
    return functional.threshold(mask, MASK_FLOOR, 0.0, inplace=True)


def _mask_derivative(
    probability: Tensor, mask: Tensor, inverse_temperature: float, out: Tensor | None = None
) -> Tensor:
    """Return dm/ds = T m (1 - m) / (s (1 - s)), and 0 where s is 0 or 1.

    There m is 0 or 1 too, so the numerator is exactly 0; the clamp only keeps the divisor from being 0.
    """
    variance = torch.addcmul(probability, probability, probability, value=-1)
    slope = torch.addcmul(mask, mask, mask, value=-1, out=out).mul_(inverse_temperature)
    return slope.div_(variance.clamp_min_(torch.finfo(variance.dtype).tiny))


class _Relaxed(torch.autograd.Function):
    """The forward and backward pass of `relaxed`.

    Autograd through the formula would keep six tensors of the weight's size per layer; this keeps one, the mask.
    Where `undecided` is given it keeps only s, w and m at those indices.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        probability: Tensor,
        inverse_temperature: float,
        generator: torch.Generator | None,
        undecided: Tensor | None,
        workspace: Tensor | None,
    ) -> Tensor:
        ctx.inverse_temperature = inverse_temperature
        # Detached views share the workspace's version counter, so autograd notices if a later pass overwrites
        # what this pass still needs for its backward.
        mask, product = (
            torch.empty_like(weight) if workspace is None else workspace[part].detach() for part in range(2)
        )
        if undecided is not None:
            torch.mul(weight, probability, out=product)
            gathered = _forward_gathered(weight, probability, inverse_temperature, generator, undecided, product)
            ctx.save_for_backward(probability, undecided, *gathered)
            return product
        assert generator is not None
        backend = bulk.backend(generator, probability)
        for s, m, w, out in bulk.blocks(probability, mask, weight, product):
            sample_mask(s, inverse_temperature, backend.uniform(s), out=m, log_=backend.log_)
            torch.mul(w, m, out=out)
        ctx.save_for_backward(probability, None, weight, mask)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:
        probability, undecided, *saved = ctx.saved_tensors
        inverse_temperature = ctx.inverse_temperature
        # A convolution's gradient sometimes has another memory layout than its weight, and blocks must match.
        gradient = gradients[0].contiguous() if probability.is_contiguous() else gradients[0]
        # On the supermask track the weight is frozen and needs no gradient.
        to_weight = torch.empty_like(probability) if ctx.needs_input_grad[0] else None
        if undecided is None:
            weight, mask = saved
            to_probability = _backward_dense(probability, weight, mask, gradient, inverse_temperature, to_weight)
        else:
            s, w, m = saved
            to_probability = _backward_gathered(
                probability, undecided, s, w, m, gradient, inverse_temperature, to_weight
            )
        return to_weight, to_probability, None, None, None, None


def _backward_dense(
    probability: Tensor,
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor,
    inverse_temperature: float,
    to_weight: Tensor | None,
) -> Tensor:
    """Return dL/ds, and write dL/dw into `to_weight` unless that is None."""
    to_probability = torch.empty_like(probability)
    results = [to_probability] if to_weight is None else [to_probability, to_weight]
    for s, m, w, g, out, *weight_out in bulk.blocks(probability, mask, weight, gradient, *results):
        _mask_derivative(s, m, inverse_temperature, out=out).mul_(w).mul_(g)
        for product in weight_out:
            torch.mul(g, m, out=product)
    return to_probability


def _forward_gathered(
    weight: Tensor,
    probability: Tensor,
    inverse_temperature: float,
    generator: torch.Generator | None,
    undecided: Tensor,
    product: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, w and m at the flat indices `undecided`, and write w * m there into `product`."""
    s, w = (tensor.reshape(-1).index_select(0, undecided) for tensor in (probability, weight))
    m = torch.empty_like(s)
    if undecided.numel():
        assert generator is not None
        backend, flat = bulk.backend(generator, probability), product.view(-1)
        for places, s_part, w_part, m_part in bulk.blocks(undecided, s, w, m):
            sample_mask(s_part, inverse_temperature, backend.uniform(s_part), out=m_part, log_=backend.log_)
            flat.index_copy_(0, places, w_part * m_part)
    return s, w, m


def _backward_gathered(
    probability: Tensor,
    undecided: Tensor,
    s: Tensor,
    w: Tensor,
    m: Tensor,
    gradient: Tensor,
    inverse_temperature: float,
    to_weight: Tensor | None,
) -> Tensor:
    """Return dL/ds, which is 0 outside `undecided`, and write dL/dw into `to_weight` unless that is None.

    `s`, `w` and `m` are the values at the indices `undecided`; elsewhere m = probability.
    """
    to_probability = torch.zeros_like(probability)
    if to_weight is not None:
        torch.mul(gradient, probability, out=to_weight)
    flat = [result.view(-1) for result in (to_probability, to_weight) if result is not None]
    for places, s_part, w_part, m_part in bulk.blocks(undecided, s, w, m):
        g_part = gradient.view(-1).index_select(0, places)
        parts = _mask_derivative(s_part, m_part, inverse_temperature).mul_(w_part).mul_(g_part), g_part * m_part
        for result, part in zip(flat, parts, strict=False):  # dL/dw has no result where `to_weight` is None
            result.index_copy_(0, places, part)
    return to_probability
