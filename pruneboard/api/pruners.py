"""Base classes of pruning methods: the hooks they implement, and the traits they declare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal

from torch import Tensor

from pruneboard.api.gates import G, Layer, Mask
from pruneboard.api.progress import Progress

Track = Literal["prune", "supermask"]
"""`prune`: weights and masks are trained. `supermask`: the weights are frozen, and only gate parameters are trained."""


@dataclass(frozen=True)
class Traits:
    """What a pruner declares about itself, for its options and the track it runs on; the harness verifies all of it.

    Attributes:
        hits_target: the folded model keeps exactly the budget. False if the sparsity emerges; it is then measured.
        forward_passes: forward and backward passes per optimizer step during the search.
        split_batch: the passes of a step share its images, so that together they cost as much as one pass; if False,
            every pass processes all images of the step.
        harden_at: fraction of the step budget after which the masks are final, in [0, 1].
        max_validations: how often `harden` calls `validate` at most. Each call is charged as training cost.
        writes_weights_at_harden: `harden` may change prunable weights, which the record and the row then say; if
            False, it may change gates only.
        control: `dense`, `floor` or `baseline`; accepted only from pruneboard's own distribution.
    """

    hits_target: bool = True
    forward_passes: int = 1
    split_batch: bool = False
    harden_at: float = 1.0
    max_validations: int = 16
    writes_weights_at_harden: bool = False
    control: Literal["dense", "floor", "baseline"] | None = None


@dataclass(frozen=True)
class GateOptimizer:
    """The optimizer of a method's gate parameters. Its learning rate follows the shape of the recipe's schedule.

    Attributes:
        rule: `adam` or `sgd`.
        lr: peak learning rate.
        weight_decay: weight decay of the gate parameters.
        momentum: momentum, with `sgd` only.
        betas: decay rates of the running averages of the gradient and its square, with `adam` only.
    """

    rule: Literal["adam", "sgd"]
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)


Validate = Callable[[], float]
"""Returns the validation top-1 of the model in its current state, a fraction in [0, 1].

Every process must call it equally often. It is valid only during `Pruner.harden`; a later call is a RuntimeError. Its
forward passes are charged as training cost, and more calls than `Traits.max_validations` make the run `invalid`.
"""


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC, Generic[G]):
    """A pruning method: a frozen dataclass whose fields are its options. Only `gate` must be implemented.

    It holds no tensors and no state: what must survive a step belongs in the gates. The hooks are called in the
    order `traits`, `gate` (once per layer), `gate_optimizer`, then per step `before_step` and `after_step`, and once
    `harden`; `diagnostics` is called after every epoch. An exception in a hook ends the run as failed, with the
    hook's name in the message.

    Attributes:
        sparsity: fraction of zeros over the prunable weights of the folded model, in [0, 1).
        tracks: the tracks the method can run on.
    """

    sparsity: float
    tracks: ClassVar[frozenset[Track]] = frozenset({"prune"})

    def __post_init__(self) -> None:
        """Check the options; a subclass that checks its own calls this method first.

        Raises:
            ValueError: `sparsity` is outside [0, 1). The message is what the user sees.
        """
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be a fraction of zeros in [0, 1); found {self.sparsity}")

    def traits(self, track: Track) -> Traits:
        """Return what this instance declares on `track`; the traits may depend on the options."""
        del track
        return Traits()

    @abstractmethod
    def gate(self, weight: Tensor) -> G:
        """Return a new gate for one prunable weight, in its state before step 0.

        Args:
            weight: the initial dense weight, any shape, for its shape, dtype, device and values.
        """

    def gate_optimizer(self, steps: int) -> GateOptimizer | None:
        """Return the optimizer of the gates' parameters, or None if they have none.

        Args:
            steps: optimizer steps of the search, for learning rates that depend on the budget.
        """
        del steps
        return None

    def before_step(self, layers: Sequence[Layer[G]], at: Progress) -> None:
        """Update schedules and masks; called before the forward passes of every search step.

        Args:
            layers: the prunable layers, in the order of the network.
            at: the step about to be taken.
        """

    def after_step(self, layers: Sequence[Layer[G]], at: Progress) -> None:
        """Project weights or gate parameters; called after the optimizer's step in every search step.

        Args:
            layers: the prunable layers, in the order of the network.
            at: the step just taken.
        """

    def harden(self, layers: Sequence[Layer[G]], at: Progress, validate: Validate) -> None:
        """Make every gate deterministic and final; called once, before the step `at.harden_step`.

        It may change gates, and weights only if `Traits.writes_weights_at_harden` declares it; afterwards, the
        optimizer alone changes weights. A gate that changes later makes the run `invalid`, and so does one that gives
        another weight in training than in evaluation mode from here on.

        Args:
            layers: the prunable layers, in the order of the network.
            at: the position before the step `harden_step`.
            validate: returns the current validation top-1, for a choice among masks; valid only during `harden`.
        """

    def diagnostics(self, layers: Sequence[Layer[G]], at: Progress) -> Mapping[str, float]:
        """Return a few numbers to watch, such as a temperature or a threshold, by name.

        They are displayed and logged after every epoch; no result depends on them. This hook may only read: a weight
        or a gate that it changes makes the run `invalid`.

        Args:
            layers: the prunable layers, in the order of the network.
            at: the step that follows the epoch; its `assign` and `reset_optimizer_state` raise a RuntimeError.
        """
        del layers, at
        return {}


@dataclass(frozen=True, kw_only=True)
class MaskPruner(Pruner[Mask]):
    """A pruner whose gates are 0/1 masks; such a method implements `before_step` only.

    `before_step` is called once more at `harden_step`, and the masks it sets there are final.
    """

    def gate(self, weight: Tensor) -> Mask:
        """Return a mask that keeps everything."""
        return Mask(weight)

    def harden(self, layers: Sequence[Layer[Mask]], at: Progress, validate: Validate) -> None:
        """Set the final masks by a last call of `before_step`, at `harden_step`."""
        del validate
        self.before_step(layers, at)
