"""edge-popup: learn which weights of a frozen random network to keep (arXiv:1911.13299, CVPR 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pruneboard.api import Gate, GateOptimizer, Layer, Progress, Pruner, Track, Traits, Validate
from pruneboard.scores import top_k

__all__ = ["EdgePopup", "PopupGate", "initial_scores"]

MAX_RAISED_LR = 10.0
"""Upper limit of a learning rate raised for a short budget: on digits with 160 steps, 30 and 100 are worse again."""


@final
class PopupGate(Gate):
    """Effective weight w * m, with m = 1 where |score| is among the layer's `keep` highest, 0 elsewhere.

    Training and evaluation mode are the same. A kept weight keeps its bits; elsewhere the result is +0.0.

    Attributes:
        score: parameter of the weight's shape; 0 until the first step draws it.
        budget: buffer of shape (1,), int64: number of positions kept; all of them until the first step.
    """

    score: nn.Parameter
    budget: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Start with every position kept and every score 0."""
        super().__init__()
        self.score = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("budget", torch.tensor([weight.numel()]))
        # A Python copy of `budget`: reading the buffer in every forward pass would synchronize an accelerator.
        self._keep = weight.numel()
        self.register_load_state_dict_post_hook(_restore_keep)  # type: ignore[no-untyped-call]

    def set_budget(self, keep: int | None) -> None:
        """Keep `keep` positions from now on; None changes nothing."""
        if keep is not None and keep != self._keep:
            self.budget.fill_(keep)
            self._keep = keep

    def forward(self, weight: Tensor) -> Tensor:
        """Return w * m, whose gradient reaches the score by the straight-through estimator."""
        return _Popup.apply(weight, self.score, self.mask())  # type: ignore[no-any-return]

    def kept(self, weight: Tensor) -> Tensor:
        """Return where m is 1."""
        del weight
        return self.mask()

    def mask(self) -> Tensor:
        """Return m, a bool tensor of the weight's shape.

        Raises:
            ValueError: a score is NaN or infinite. Only checked on a CPU, because the check would synchronize an
                accelerator; there the loss shows it a few steps later.
        """
        return top_k([self.score.detach().abs()], self._keep, checked=self.score.device.type == "cpu")[0]


def _restore_keep(gate: nn.Module, incompatible: object) -> None:
    """Set the Python copy from the buffer `budget` that was just loaded."""
    del incompatible
    assert isinstance(gate, PopupGate)
    gate._keep = int(gate.budget)


class _Popup(torch.autograd.Function):
    """w * m with m = top-k of |score|, and the straight-through estimator of its gradient.

        dL/dw = g m,   dL/dscore = g w sign(score),   g = dL/d(w m)

    The derivative of m in |score| is 0 almost everywhere, and undefined at a tie with the k-th highest. The
    estimator replaces it by 1, so every entry gets a gradient, whether m is 0 or 1; sign(score) is the derivative of
    |score|. It is written out because autograd through |score| and the product would keep a float mask per layer.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, score: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, score, mask if ctx.needs_input_grad[0] else None)
        return torch.where(mask, weight, 0.0)  # a product would leave -0.0 where a negative weight is pruned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, score, mask = ctx.saved_tensors
        to_weight = torch.where(mask, gradient, 0.0) if ctx.needs_input_grad[0] else None
        to_score = score.sign().mul_(weight).mul_(gradient) if ctx.needs_input_grad[1] else None
        return to_weight, to_score, None


def initial_scores(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return scores U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of `weight`'s shape, on the CPU.

    This is `kaiming_uniform_(a=sqrt(5))`; fan_in is the number of weights per output channel. The scores are drawn in
    row-major order, so that they do not depend on the memory layout.
    """
    bound = 1 / math.sqrt(weight[0].numel())
    return torch.empty(weight.shape, dtype=weight.dtype).uniform_(-bound, bound, generator=generator)


Layers = Sequence[Layer[PopupGate]]


@final
@dataclass(frozen=True, kw_only=True)
class EdgePopup(Pruner[PopupGate]):
    """Learn a score per weight of a frozen random network; each layer keeps the weights of its highest scores.

        min over s of  L(w * m),    m_l = 1 where |s_l| is among the keep_l highest of layer l, 0 elsewhere

    w is drawn once and never changes. One step, where g = dL/d(w * m) is the gradient of the effective weight:

        dL/ds = g * w * sign(s)    for every entry, pruned ones included (straight-through estimator)
        s <- SGD(lr, momentum, weight_decay), the learning rate on the recipe's schedule

    keep_l is the same share of every layer. s starts as U(-1/sqrt(fan_in), 1/sqrt(fan_in)). A pruned weight
    returns when its |s| overtakes that of a kept one. The masks of the last step are the result.

    Source: Ramanujan et al., "What's hidden in a randomly weighted neural network?", and
    allenai/hidden-networks@dddf2d0: utils/conv_type.py:14-32 (top k and straight-through gradient), 36-56
    (initial scores, |s|), utils/net_utils.py:30-47 (what is frozen). Its CIFAR configurations provide lr, momentum
    and weight_decay. Written from the formulas.

    Deviations:
        * keep_l is an integer from the board's budget (largest remainder); the official int((1 - k) n) is off by
          one for many k and n.
        * Equal scores are ranked by position; the official sort is not stable.
        * The last step's masks are the result, and the test split is read once (official: the best epoch on
          the split that is reported, which for CIFAR is the test set).
        * Initial scores come from one generator per layer, keyed on the run's seed and the layer.
        * Batch size, warm-up and the joint clipping of the gradient norm are the recipe's (official CIFAR: 128,
          none, none).
        * With fewer than `travel / lr` = 5,000 steps, the learning rate is raised to travel / steps, at most 10: in
          160 steps at 0.1 only one mask position in twenty changes (digits, test_resnet, 3 seeds, validation top-1
          and loss at .5: 98.6 % and .066 at 0.1, 98.8 % and .034 raised; at .9: 98.6 % and .139, 99.1 % and .095).
          The paper's budget (about 35,000 steps) is not affected.

    Bugs of the official code that are not repeated: `prune_rate` is the share kept in one class and the share
    removed in another (and in the "scaled" weight initialization); the mask is written through `flatten()`, which
    for scores in channels_last is a copy, so that the mask is lost. Properties that are kept: a score of exactly 0 gets
    no loss gradient (sign(0) = 0), and a score that a long step carries past 0 ranks high again on the other side.

    Attributes:
        lr: peak learning rate of the scores (SGD); it follows the recipe's schedule.
        travel: minimum of learning rate times steps; 0 never raises the learning rate.
        momentum: of that SGD, in [0, 1).
        weight_decay: of the scores (L2).
    """

    tracks: ClassVar[frozenset[Track]] = frozenset({"supermask"})

    lr: float = 0.1
    travel: float = 500.0
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        super().__post_init__()
        if self.lr <= 0 or self.travel < 0:
            raise ValueError(f"lr must be above 0 and travel 0 or more; found {self.lr}, {self.travel}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); found {self.momentum}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more; found {self.weight_decay}")

    def traits(self, track: Track) -> Traits:
        """Declare that masks change until the end of the budget: frozen weights cannot be fine-tuned."""
        del track
        return Traits(harden_at=1.0)

    def gate(self, weight: Tensor) -> PopupGate:
        """Return a gate that keeps everything until the first step."""
        return PopupGate(weight)

    def gate_optimizer(self, steps: int) -> GateOptimizer:
        """Return SGD with momentum, with a learning rate high enough to reorder the scores within `steps`."""
        lr = max(self.lr, min(MAX_RAISED_LR, self.travel / max(1, steps)))
        return GateOptimizer(rule="sgd", lr=lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def before_step(self, layers: Layers, at: Progress) -> None:
        """Set every gate's budget; in the first step, draw its scores."""
        for layer in layers:
            layer.gate.set_budget(layer.keep)
            if at.step == 0:
                drawn = initial_scores(layer.dense, at.generator(layer))
                at.assign(layer.gate.score, drawn.to(layer.gate.score.device))

    def harden(self, layers: Layers, at: Progress, validate: Validate) -> None:
        """Set every gate's budget; the masks are those of the last scores."""
        del at, validate
        for layer in layers:
            layer.gate.set_budget(layer.keep)

    def diagnostics(self, layers: Layers, at: Progress) -> Mapping[str, float]:
        """Return the mean of |score| over all layers."""
        del at
        n = sum(layer.dense.numel() for layer in layers)
        total = sum(float(layer.gate.score.detach().abs().sum(dtype=torch.float64)) for layer in layers)
        return {"mean_score": total / n}
