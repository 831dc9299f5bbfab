"""What the training loop reads and updates: the step budget, the initial network, and `Training`."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pruneboard.api import Layer, Progress, Pruner, Traits
from pruneboard.data import BatchPlan, Dataset, steps_per_epoch
from pruneboard.errors import AuditError, DivergedError, InterruptedRunError, PruneboardError, RunError, described
from pruneboard.models import state_sha256
from pruneboard.processes import memory
from pruneboard.spec import Recipe
from pruneboard.training import process_state
from pruneboard.training.checkpoint import Checkpointer, TrainState
from pruneboard.training.engine import Engine
from pruneboard.training.gates import DrawKey
from pruneboard.training.integrity import Integrity
from pruneboard.training.mask_stats import MaskTracker

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing itself from Python 3.11 on

R = TypeVar("R")


class Listener(Protocol):
    """Observes a run (terminal, log file, event file); cannot change it."""

    def on_step(self, step: int, total: int, loss: float | None) -> None:
        """Report that `step` of `total` optimizer steps are done, also before the first one.

        `loss` is that of the last step; None if it was not measured, because that waits for the device.
        """

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Report the end of an epoch; `row` is its line of `metrics.jsonl`."""

    def on_phase(self, message: str, done: int = 0, total: int = 0) -> None:
        """Report that a phase other than training is under way; see `pruneboard.processes.phases.Receiver`."""

    def on_end(self) -> None:
        """Report that the run ended, well or not, or that another process continues it; may be called repeatedly."""


@dataclass(frozen=True)
class Budget:
    """The step budget, the same for every method of a board.

    Attributes:
        epochs: passes over the training images.
        steps_per_epoch: optimizer steps per epoch.
        harden_step: the masks become final before this step.
        warmup: steps of the linear warm-up.
    """

    epochs: int
    steps_per_epoch: int
    harden_step: int
    warmup: int

    @property
    def total(self) -> int:
        """Number of optimizer steps."""
        return self.epochs * self.steps_per_epoch


def plan_budget(recipe: Recipe, dataset: Dataset, harden_at: float) -> Budget:
    """Return the budget of `recipe` on `dataset`; hardening comes after the fraction `harden_at` of the steps."""
    per_epoch = steps_per_epoch(dataset, recipe.batch_size)
    total = recipe.epochs * per_epoch
    return Budget(recipe.epochs, per_epoch, round(harden_at * total), round(recipe.warmup_epochs * per_epoch))


@dataclass(frozen=True)
class InitialNetwork:
    """The network before gates are attached.

    Attributes:
        sha256: hash of its state.
        frozen: on the supermask track, copies of its parameters, none of which may change; else None.
    """

    sha256: str
    frozen: Mapping[str, Tensor] | None

    @classmethod
    def of(cls, model: torch.nn.Module, *, frozen: bool) -> InitialNetwork:
        """Return the description of `model`."""
        parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        return cls(state_sha256(model.state_dict()), parameters if frozen else None)


@dataclass
class Training:
    """Everything that the loop needs for one run; built by `setup.build_training`."""

    engine: Engine
    pruner: Pruner[Any]
    layers: Sequence[Layer[Any]]
    dataset: Dataset
    plan: BatchPlan
    recipe: Recipe
    budget: Budget
    draw_key: DrawKey
    forward_passes: int
    split_batch: bool
    method: str
    listener: Listener
    initial: InitialNetwork
    checkpointer: Checkpointer
    start_time: float
    """Start time of this attempt (`time.perf_counter`)."""
    max_validations: int = Traits.max_validations
    writes_weights_at_harden: bool = Traits.writes_weights_at_harden
    mask_tracker: MaskTracker = field(default_factory=MaskTracker)
    state: TrainState = field(default_factory=TrainState)
    integrity: Integrity | None = None
    """Set when the loop starts; compares what the method may not change."""

    @classmethod
    def from_training(cls, run: Training) -> Self:
        """Return a training of this class, a subclass with more behaviour, with the attributes of `run`."""
        return cls(**{item.name: getattr(run, item.name) for item in fields(Training)})

    @property
    def seconds(self) -> float:
        """Seconds used so far, over all attempts."""
        return self.state.seconds + time.perf_counter() - self.start_time

    @property
    def epochs(self) -> int:
        """Number of epochs to train: 0 if all weights are frozen and the mask is final before the first step."""
        return 0 if self.initial.frozen is not None and not self.budget.harden_step else self.budget.epochs

    @property
    def images_trained(self) -> int:
        """Images passed through the network in training; an image counts once per forward pass."""
        if not self.epochs:
            return 0
        searching, total = self.budget.harden_step, self.budget.total
        seen = 1 if self.split_batch else self.forward_passes
        return self.plan.batch_size * (searching * seen + total - searching)

    def progress(self, step: int, *, may_write: bool = True) -> Progress:
        """Return the `Progress` for the hooks at `step`, and set the step of the draws' key.

        Args:
            step: see `Progress`.
            may_write: whether its `assign` and `reset_optimizer_state` work; otherwise they raise.
        """
        phase: Any = "search" if step < self.budget.harden_step else "finetune"
        self.draw_key.step = step
        return Progress(
            step,
            self.budget.total,
            self.budget.harden_step,
            phase,
            self.draw_key.hook_generator,
            self.engine if may_write else ReadOnly(),
        )

    def hook(self, name: str, call: Callable[[], R]) -> R:
        """Call one of the plugin's functions, measure its time, and name method and hook if it raises."""
        start, before = time.perf_counter(), process_state.settings()
        try:
            result = call()
        except (MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):
            raise
        except PruneboardError as error:
            if isinstance(error, InterruptedRunError) and not _raised_by_harness(error):
                raise RunError(
                    f"method {self.method} failed in {name}: {type(error).__name__}: {described(error)}"
                ) from error
            raise
        except BaseException as error:  # also SystemExit: what ends a method early is a failed run
            if memory.is_out_of_memory(error):
                raise
            check_finite(self, self.draw_key.step)  # if weights are not finite, that is the better explanation
            raise RunError(
                f"method {self.method} failed in {name}: {type(error).__name__}: {described(error)}"
            ) from error
        finally:
            self.state.hook_seconds += time.perf_counter() - start
        if (change := process_state.change(before)) is not None:
            raise AuditError(f"method {self.method}: {name} {change}: a method may not change its process")
        return result


class ReadOnly:
    """`api.Durable` for hooks that may only read."""

    def assign(self, parameter: nn.Parameter, new: Tensor) -> None:
        """Raise."""
        del parameter, new
        raise RuntimeError("assign() is not valid here: this hook may only read")

    def reset_optimizer_state(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Raise."""
        del parameter, mask
        raise RuntimeError("reset_optimizer_state() is not valid here: this hook may only read")


def _raised_by_harness(error: BaseException) -> bool:
    """Return whether the code that raised `error` is the harness's own, such as a signal handler or `validate`."""
    (*_, (frame, _)) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "pruneboard"


def check_finite(run: Training, step: int) -> None:
    """Raise DivergedError if a prunable weight is not finite: no mask can be chosen among such weights."""
    if not all(bool(torch.isfinite(layer.dense.detach()).all()) for layer in run.layers):
        raise DivergedError(f"weights are no longer finite numbers at step {step}: lower the learning rate (--lr)")
