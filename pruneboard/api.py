"""All that a pruner may import: the interface between a method and the harness.

A **pruner** is a recipe, a frozen dataclass of hyper-parameters. A **gate** is its state: a module placed
in front of each prunable weight, which turns the dense weight into the effective one. The harness decides
which weights are prunable, trains, hardens, folds, counts and evaluates, the same way for every method.
The shortest complete pruner::

    @final
    @dataclass(frozen=True, kw_only=True)
    class Magnitude(MaskPruner):
        tracks = frozenset({"prune"})

        def traits(self, track):
            return Traits(harden_at=0.5)

        def before_step(self, layers, at):
            if at.step == at.harden_step:
                set_masks(layers, top_k([layer.dense.abs() for layer in layers], budget(layers)))

and, in its distribution's `pyproject.toml`::

    [project.entry-points."pruneboard.pruners"]
    magnitude = "their_package:Magnitude"

The order of a step is: `before_step`, (forward, loss, backward) x forward passes, the optimizer,
`after_step`. At `harden_step` the harness calls `harden` instead, after which no gate may change.
Every quantity of a method that survives a step lives in its gates, as a buffer or a parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

Track = Literal["prune", "supermask"]
Batch = tuple[Tensor, Tensor]
"""Images, float32 of shape [batch, 3, side, side], and labels, int64 of shape [batch]."""


class Gate(nn.Module, ABC):
    """Dense weight -> effective weight of the same shape and dtype; holds all state of a method for one layer.

    Trainable state is a parameter of one or more dimensions (the engine cannot hold 0-dimensional ones),
    other state a buffer. Under mixed precision a gate still sees and returns float32.
    """

    _source: Callable[[], torch.Generator] | None = None

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight. It is evaluated once per forward pass, however many layers use it.

        In training mode it may draw from `self.draw()`; in evaluation mode it must be deterministic.
        """

    def draw(self) -> torch.Generator:
        """Return a generator, on the weight's device, keyed on (seed, step, forward pass, layer).

        It gives the same numbers on every process, and again when a run is resumed.

        Raises:
            RuntimeError: the gate is not attached to a model by the harness.
        """
        if self._source is None:
            raise RuntimeError("this gate is not attached to a model, so its draws have no key yet")
        return self._source()

    def folded(self, weight: Tensor) -> Tensor:
        """Return the final effective weight, which replaces `weight` in the plain model."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(weight)  # type: ignore[no-any-return]
        finally:
            self.train(training)

    def kept(self, weight: Tensor) -> Tensor:
        """Return the positions that count as kept, a bool tensor of `weight`'s shape.

        The harness counts them against the budget and checks that nothing else is non-zero.
        """
        return self.folded(weight) != 0


class Mask(Gate):
    """The ready-made gate: `weight * keep`, with `keep` a 0/1 buffer of the weight's shape and dtype.

    The gradient is masked too, so a pruned weight receives no loss gradient; weight decay and momentum
    still move it underneath. Whether it may come back is the pruner's decision.
    """

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Start with every position kept."""
        super().__init__()
        # Of the weight's dtype: multiplying by a bool mask is some thirty times slower on a CPU.
        self.register_buffer("keep", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight * keep`."""
        return weight * self.keep

    def set(self, keep: Tensor) -> None:
        """Replace the mask by `keep`, a tensor of the same shape holding 0 and 1 (or bool)."""
        with torch.no_grad():
            self.keep.copy_(keep)  # never through a view: channels_last buffers are not contiguous

    def kept(self, weight: Tensor) -> Tensor:
        """Return the mask as bool, whatever the weights hold."""
        del weight
        return self.keep != 0


G = TypeVar("G", bound=Gate)


@dataclass(frozen=True)
class Layer(Generic[G]):
    """One prunable weight, as a pruner sees it.

    Attributes:
        index: position among the prunable layers, 0-based.
        name: for messages and diagnostics only; a method must not depend on it.
        dense: the dense weight, any shape. Write to it only through `Progress.assign`.
        gate: this method's gate in front of it.
        keep: positions this layer would keep if every layer kept the same share, rounded by the harness so
            that the sum over layers is the board's exact budget. None where the sparsity emerges.
    """

    index: int
    name: str
    dense: nn.Parameter
    gate: G
    keep: int | None


class Durable(Protocol):
    """What the engine lends to hooks: the one way to write that survives the next optimizer step."""

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new` on this process's module copy and on any master copy."""

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Zero the optimizer's per-element state of `parameter` where `mask` is true."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands when a hook is called.

    Attributes:
        step: optimizer step, 0-based, not yet taken (in `after_step`: just taken).
        total: optimizer steps of the whole budget.
        harden_step: step before which masks are final; equal to `total` when nothing is fine-tuned.
        phase: `search` before `harden_step`, `finetune` from there on.
        keyed: name of a purpose, layer index or -1 -> generator; behind `generator`.
        durable: behind `assign` and `reset_optimizer_state`.
    """

    step: int
    total: int
    harden_step: int
    phase: Literal["search", "finetune"]
    keyed: Callable[[int], torch.Generator]
    durable: Durable

    @property
    def fraction(self) -> float:
        """Share of the search that is over, in [0, 1]: method schedules are fractions of `harden_step`."""
        return 1.0 if self.step >= self.harden_step else self.step / self.harden_step

    def generator(self, layer: Layer[G] | None = None) -> torch.Generator:
        """Return a CPU generator keyed on (seed, step, layer), equal on every process."""
        return self.keyed(-1 if layer is None else layer.index)

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Set `parameter` to `new`, durably, on every process alike.

        A plain in-place write would be undone by the next step wherever the engine keeps a master copy.
        """
        self.durable.assign(parameter, new)

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Zero the optimizer's per-element state (momentum) of `parameter` where `mask` is true."""
        self.durable.reset_optimizer_state(parameter, mask)


@dataclass(frozen=True)
class Traits:
    """What a pruner, with these options and on this track, declares; each is verified, not trusted.

    Attributes:
        hits_target: the folded model keeps exactly the budget. False: sparsity emerges and is measured.
        forward_passes: forward and backward passes per optimizer step before hardening.
        harden_at: fraction of the step budget after which masks are fixed.
        control: `dense`, `floor` or `baseline`; honoured only for pruneboard's own distribution.
    """

    hits_target: bool = True
    forward_passes: int = 1
    harden_at: float = 1.0
    control: Literal["dense", "floor", "baseline"] | None = None


@dataclass(frozen=True)
class GateOptimizer:
    """The rule by which a method's gate parameters learn. Its rate follows the recipe's schedule shape.

    Attributes:
        rule: `adam` or `sgd`.
        lr: peak learning rate.
        weight_decay: of the gate parameters.
        momentum: of `sgd`.
        betas: of `adam`.
    """

    rule: Literal["adam", "sgd"]
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)


Validate = Callable[[], float]
"""Validation top-1 of the model as it stands, in [0, 1]; every process must call it equally often. Lent to `harden`."""


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC, Generic[G]):
    """A method: a frozen recipe whose fields are its options. Only `gate` is required.

    Attributes:
        sparsity: fraction of zeros over the prunable weights of the folded model, in [0, 1).
        tracks: what it can run on.
    """

    sparsity: float
    tracks: ClassVar[frozenset[Track]] = frozenset({"prune"})

    def __post_init__(self) -> None:
        """Refuse a sparsity outside [0, 1); subclasses that check more call this first."""
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is a fraction of zeros in [0, 1); found {self.sparsity}")

    def traits(self, track: Track) -> Traits:
        """Return what this instance declares on `track`; options may matter."""
        del track
        return Traits()

    @abstractmethod
    def gate(self, weight: Tensor) -> G:
        """Return the gate for one prunable weight, in the state before step 0."""

    def gate_optimizer(self, steps: int) -> GateOptimizer | None:
        """Return the rule for the gates' parameters; None when they have none.

        Args:
            steps: optimizer steps of the search, for rates that must suit the budget.
        """
        del steps
        return None

    def before_step(self, layers: Sequence[Layer[G]], at: Progress) -> None:
        """Set schedules and masks; called before the forward passes of every search step."""

    def after_step(self, layers: Sequence[Layer[G]], at: Progress) -> None:
        """Project; called after the optimizer in every search step, on every process, in the same order."""

    def harden(self, layers: Sequence[Layer[G]], at: Progress, validate: Validate) -> None:
        """Make every gate deterministic and final; called once, at `harden_step`."""

    def diagnostics(self, layers: Sequence[Layer[G]], at: Progress) -> Mapping[str, float]:
        """Return a few numbers worth watching (a temperature, a threshold); shown and logged, never used."""
        del layers, at
        return {}


@dataclass(frozen=True, kw_only=True)
class MaskPruner(Pruner[Mask]):
    """A pruner whose gates are 0/1 masks: it writes `before_step` only.

    `before_step` is called once more at `harden_step`; what it leaves there is final.
    """

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    def harden(self, layers: Sequence[Layer[Mask]], at: Progress, validate: Validate) -> None:
        """Set the final mask: `before_step` at `harden_step`."""
        del validate
        self.before_step(layers, at)


class ModelView(Protocol):
    """The model as a scoring pruner may use it: functions of given weights, with no side effect and no chance.

    Every branch is open: a normalization scale or a gain that starts at 0 throughout, as timm starts the last one
    of every residual branch, counts as 1 here. Nothing would flow through such a branch, so that any score made of
    flow or of gradients would empty it, although it opens with the first steps. Training starts from 0 all the same.

    Dropout and the like are off. Given float64 images, everything is computed in float64. The view is lent until
    `score` returns.
    """

    @property
    def layers(self) -> Sequence[Layer[Mask]]:
        """The prunable layers, in order."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""

    def logits(
        self,
        images: Tensor,
        weights: Sequence[Tensor] | None = None,
        *,
        training: bool = True,
        rest: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the logits, [batch, classes], differentiable in `weights`.

        Args:
            images: [batch, channels, height, width].
            weights: one per layer, in place of the dense ones.
            training: batch statistics (True) or running statistics (False) in normalization.
            rest: applied to every other floating-point parameter (SynFlow passes `torch.abs`).

        Raises:
            RuntimeError: scoring is over.
        """

    def loss(self, batch: Batch, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Return the recipe's mean loss of `batch` under batch statistics, differentiable in `weights`.

        Raises:
            RuntimeError: scoring is over.
        """


@dataclass(frozen=True, kw_only=True)
class ScoringPruner(Pruner[Mask]):
    """A second type: prunes once, before step 0, by a score per weight (SNIP, GraSP, SynFlow).

    The harness keeps the budget's highest scores over all layers, ties broken by position.
    """

    def traits(self, track: Track) -> Traits:
        """Declare that masks are fixed before the first step."""
        del track
        return Traits(harden_at=0.0)

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def score(self, view: ModelView, batches: Iterator[Batch]) -> Sequence[Tensor]:
        """Return one score tensor per layer, of its weight's shape; the highest are kept.

        `batches` is an endless stream of augmented training batches of its own, equal on every process and on any
        number of them; it is lent until this method returns. Every image passed through `view`, from the stream
        or not, is counted as training cost.
        """


@dataclass(frozen=True, kw_only=True)
class DenseGradientPruner(Pruner[Mask]):
    """A second type: moves its masks by the gradient of every weight, pruned ones included (RigL)."""

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    @abstractmethod
    def wants_gradients(self, at: Progress) -> bool:
        """Return whether this step ends with `update`; no gradient is collected in the others."""

    @abstractmethod
    def update(self, layers: Sequence[Layer[Mask]], dense_gradients: Sequence[Tensor], at: Progress) -> None:
        """Change masks after the optimizer's step.

        Args:
            layers: the prunable layers.
            dense_gradients: one per layer: gradient of the loss with respect to the *effective* weight,
                averaged over the global batch and equal on every process; not clipped.
            at: the step just taken.
        """
