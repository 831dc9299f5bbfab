"""A method: what it declares, and the hooks it may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal

from torch import Tensor

from pruneboard.api.gates import G, Layer, Mask
from pruneboard.api.progress import Progress

Track = Literal["prune", "supermask"]


@dataclass(frozen=True)
class Traits:
    """What a pruner, with these options and on this track, declares; each is verified, not trusted.

    Attributes:
        hits_target: the folded model keeps exactly the budget. False: sparsity emerges and is measured.
        forward_passes: forward and backward passes per optimizer step before hardening.
        split_batch: each of them takes its share of the images of a step, so that all of them cost as much as one;
            else each takes all.
        harden_at: fraction of the step budget after which masks are fixed.
        control: `dense`, `floor` or `baseline`; honoured only for pruneboard's own distribution.
    """

    hits_target: bool = True
    forward_passes: int = 1
    split_batch: bool = False
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
