"""Finds what a method changes where it may not: weights between steps, final gates, hooks, settings of the process.

Every tensor has a version counter, which each in-place operation increases, and an address. Comparing these costs
nothing, so it is done at every step once the masks are final. A write through `tensor.data` or through numpy does not
increase the counter. Therefore one layer, chosen at random, is also compared by its hash (on a GPU at every
`SAMPLE_EVERY`th step, because a hash waits for the device), and all tensors are at every evaluation.

A gate may write, compute and undo within a single call, which no comparison sees; docs/rules.md says so.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pruneboard.api import Layer
from pruneboard.errors import AuditError
from pruneboard.models import state_sha256
from pruneboard.training import process_state
from pruneboard.training.gates import gate_tensors
from pruneboard.training.optim import schedule

if TYPE_CHECKING:
    from pruneboard.training.state import Training

SAMPLE_EVERY = 10
"""Steps between two comparisons by hash of one layer on a GPU."""

HOOKS = {
    nn.Module: ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    Tensor: ("_backward_hooks", "_post_accumulate_grad_hooks"),
    torch.optim.Optimizer: ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
}
"""Attributes that hold hooks which run in a step."""

OVERRIDES = {nn.Module: ("forward",), torch.optim.Optimizer: ("step", "zero_grad")}
"""Methods that act as hooks where one object has its own."""

GROUP_SETTINGS = ("rule", "peak_lr", "weight_decay", "momentum", "nesterov", "betas", "frozen")
"""Settings of a parameter group that no method may change; `lr` follows from `peak_lr`."""

WITHOUT = (process_state.ENVIRONMENT, process_state.DIRECTORY, process_state.THREADS)
"""Settings that the harness or its listeners may change between hooks; `Training.hook` compares them all."""

KEPT_ZERO_TOLERANCE = 1e-4
"""Share of the kept positions that may hold 0.0: single weights can reach 0 in training.

More would mean that the mask is wrong.
"""

Mark = tuple[int, int]
"""Address and version counter of a tensor."""


class Integrity:
    """Compares the tensors, hooks and settings of a training with what they were before the method's code ran."""

    def __init__(self, run: Training) -> None:
        """Remember the hooks of the network and its optimizer as they are before the first hook of the method."""
        self._run = run
        self._hooks = self._count_hooks()
        self._settings = process_state.settings()
        self._options = _options(run)
        self._groups = self._group_settings()
        own = {id(parameter) for layer in run.layers for parameter in layer.gate.parameters()}
        named = run.engine.model.named_parameters()
        self._parameters = [
            (name, parameter, _kind(parameter)) for name, parameter in named if id(parameter) not in own
        ]
        self._kept = None if run.state.gates_sha256 is None else self._masks()
        self._marks: dict[str, Mark] | None = None
        self._sample: tuple[int, dict[str, str]] | None = None
        self._read: str | None = None
        self._final: str | None = None
        # The choice must not be predictable, and decides no result. It is the same on every process, so that all of
        # them fail together.
        drawn = random.SystemRandom().getrandbits(62) if run.engine.rank == 0 else 0
        self._random = random.Random(int(run.engine.sum(torch.tensor(drawn))))  # noqa: S311 - see above

    def remember_settings(self) -> None:
        """Remember the settings of the process; the loop calls it after it has set its signal handlers."""
        self._settings = process_state.settings()

    def check_settings(self) -> None:
        """Raise AuditError if a setting of the process, or an option of the method, has changed."""
        now = _options(self._run)
        if changed := [name for name, value in self._options.items() if now[name] != value]:
            self._fail(f"it changed its option {changed[0]} during the training: the record holds the options")
        if (change := process_state.change(self._settings, without=WITHOUT)) is not None:
            self._fail(f"it {change} during the training: a method may not change its process")

    def seal(self, step: int) -> None:
        """Remember all tensors as they are after `step`: until the next optimizer step, nothing may write to them."""
        self._marks = {name: _mark(tensor) for name, tensor in self._tensors().items()}
        sampled = self._run.engine.device.type == "cpu" or step % SAMPLE_EVERY == 0
        index = self._random.randrange(len(self._run.layers)) if self._run.layers and sampled else None
        self._sample = None if index is None else (index, self._hashes_of_layer(index))

    def check_step(self, step: int) -> None:
        """Before the optimizer's step, check for hooks, parameters of another kind, and writes since the last `seal`.

        Raises:
            AuditError: the message names the hook's place or the tensor.
        """
        self.check_hooks()
        for place, parameter, kind in self._parameters:
            if _kind(parameter) != kind:
                self._fail(f"it changed shape, dtype or requires_grad of {place}: all methods train the same weights")
        if self._marks is None:
            return
        now = {name: _mark(tensor) for name, tensor in self._tensors().items()}
        name = next((name for name, mark in self._marks.items() if now.get(name) != mark), None)
        if name is None and self._sample is not None:
            index, before = self._sample
            name = next((name for name, found in self._hashes_of_layer(index).items() if found != before[name]), None)
        if name is not None:
            what = "a gate" if "/" in name else "a weight"
            self._fail(
                f"{what} changed after hardening, at step {step} ({name}): masks are final there, and only the "
                "optimizer changes weights"
            )

    def check_hooks(self) -> None:
        """Raise AuditError if the method left a hook on a module, a parameter or the optimizer."""
        for place, count in self._count_hooks().items():
            if count > self._hooks.get(place, 0):
                self._fail(f"it left a hook on {place}: a method may not hook into the network")

    def check_optimizer(self, step: int | None = None) -> None:
        """Raise AuditError if a setting of the optimizer changed, or at `step` a learning rate is off its schedule."""
        groups, budget = self._run.engine.groups, self._run.budget
        changed = ["the number of groups"] if len(groups) != len(self._groups) else []
        for group, settings in zip(groups, self._groups, strict=False):
            rate = {} if step is None else {"lr": group["peak_lr"] * schedule(step, budget.total, budget.warmup)}
            wanted = {**settings, **rate}
            changed += [f"{name} of the group {group['name']}" for name in wanted if group.get(name) != wanted[name]]
        if changed:
            self._fail(
                f"it changed the optimizer, {changed[0]}: learning rates, decay and momentum are those of the recipe"
            )

    def gates_frozen(self) -> None:
        """Remember the masks that the method chose, and the optimizer's settings, which freezing changes."""
        self._groups, self._kept = self._group_settings(), self._masks()

    def check_masks(self) -> None:
        """Raise AuditError if masks changed since `gates_frozen`, whatever a gate stores them in."""
        for layer, before, now in zip(self._run.layers, self._kept or (), self._masks(), strict=False):
            if int((before != now).sum()) > KEPT_ZERO_TOLERANCE * max(int(before.sum()), 1):
                self._fail(f"the mask of layer {layer.name} changed after hardening; every mask must be final there")

    @contextmanager
    def unchanged(self, who: str) -> Iterator[None]:
        """Raise AuditError if the block changes a weight or a gate; `who` is what runs in the block."""
        before = state_sha256(self._tensors())
        yield
        self._read = state_sha256(self._tensors())
        if self._read != before:
            self._fail(f"a weight or a gate changed during {who}: it may only read")

    def check_untouched(self) -> None:
        """Raise AuditError if a weight or a gate changed since the last block of `unchanged`, with no step after it."""
        if self._read is not None and self._read != state_sha256(self._tensors()):
            self._fail("a weight or a gate changed after the last step: the result is what the optimizer left")

    def finish(self) -> None:
        """Remember the weights as the last optimizer step or hook left them."""
        self._final = state_sha256(self._tensors())

    def check_finished(self) -> None:
        """Raise AuditError if a weight or a gate changed since `finish`."""
        if self._final is not None and self._final != state_sha256(self._tensors()):
            self._fail("a weight or a gate changed after the last step: the result is what the optimizer left")

    def _fail(self, message: str) -> None:
        raise AuditError(f"method {self._run.method}: {message}")

    def _group_settings(self) -> list[dict[str, Any]]:
        return [{name: group.get(name) for name in GROUP_SETTINGS} for group in self._run.engine.groups]

    @torch.no_grad()
    def _masks(self) -> list[Tensor]:
        return [layer.gate.kept(layer.dense.detach()).bool() for layer in self._run.layers]

    def _tensors(self) -> dict[str, Tensor]:
        """Return every parameter, and with a slash in their names all tensors of gates."""
        return {**gate_tensors(self._run.layers), **dict(self._run.engine.model.named_parameters())}

    def _hashes_of_layer(self, index: int) -> dict[str, str]:
        """Return the hashes of a layer's weight and gate, by names as in `_tensors`."""
        layer = self._run.layers[index]
        weight, gate = state_sha256({"weight": layer.dense}), state_sha256(gate_tensors([layer]))
        return {layer.name: weight, f"{layer.name}/gate": gate}

    def _count_hooks(self) -> dict[str, int]:
        engine = self._run.engine
        holders: dict[type, list[tuple[str, Any]]] = {
            nn.Module: [(name or "the network", module) for name, module in engine.model.named_modules()],
            Tensor: list(engine.model.named_parameters()),
            torch.optim.Optimizer: [("the optimizer", optimizer) for optimizer in engine.optimizers],
        }
        counts: dict[str, int] = {}
        for kind, attributes in HOOKS.items():
            for place, holder in holders[kind]:
                for attribute in attributes:
                    if hooks := getattr(holder, attribute, None):
                        counts[place] = counts.get(place, 0) + len(hooks)
                if own := sum(name in vars(holder) for name in OVERRIDES.get(kind, ())):
                    counts[place] = counts.get(place, 0) + own
        return counts


@contextmanager
def weights_kept(run: Training) -> Iterator[None]:
    """Raise AuditError if the block, in which the method hardens, changes a parameter that it does not declare.

    Gates may change, and prunable weights if the method declares `Traits.writes_weights_at_harden`.
    """
    own = {id(parameter) for layer in run.layers for parameter in layer.gate.parameters()}
    if run.writes_weights_at_harden:
        own |= {id(layer.dense) for layer in run.layers}
    kept = {name: p for name, p in run.engine.model.named_parameters() if id(p) not in own}
    before = {name: state_sha256({"": parameter}) for name, parameter in kept.items()}
    yield
    for name, parameter in kept.items():
        if state_sha256({"": parameter}) != before[name]:
            raise AuditError(
                f"method {run.method}: harden changed {name}: it may change gates only, and prunable weights if it "
                "declares Traits.writes_weights_at_harden"
            )


def _options(run: Training) -> dict[str, Any]:
    return {item.name: getattr(run.pruner, item.name, None) for item in dataclasses.fields(run.pruner)}


def _kind(parameter: Tensor) -> tuple[Any, ...]:
    return parameter.shape, parameter.dtype, parameter.requires_grad


def _mark(tensor: Tensor) -> Mark:
    return tensor.data_ptr(), tensor._version


@torch.no_grad()
def check_same_in_both_modes(method: str, layers: Sequence[Layer[Any]]) -> None:
    """Check that every gate gives the same weight in training as in evaluation mode, as it must once it is final.

    Raises:
        AuditError: the network that is trained is not the one that is evaluated; the message names the layer.
    """
    for layer in layers:
        weight = layer.dense.detach()
        if not _close(_in_mode(layer.gate, weight, training=True), _in_mode(layer.gate, weight, training=False)):
            raise AuditError(
                f"method {method}: after hardening, the gate of layer {layer.name} gives another weight in training "
                "than in evaluation"
            )


@torch.no_grad()
def check_folded(method: str, layers: Sequence[Layer[Any]], state: Mapping[str, Tensor]) -> None:
    """Check that the folded weights in `state` are those that the network was trained with: a gate may override both.

    Raises:
        AuditError: they are not; the message names the layer.
    """
    for layer in layers:
        trained = _in_mode(layer.gate, layer.dense.detach(), training=True).cpu()
        if not _close(trained, state[f"{layer.name}.weight"]):
            raise AuditError(
                f"method {method}: the gate of layer {layer.name} folds to another weight than the network was "
                "trained with"
            )


def _in_mode(gate: nn.Module, weight: Tensor, *, training: bool) -> Tensor:
    modes: Mapping[nn.Module, bool] = {module: module.training for module in gate.modules()}
    try:
        gate.train(training)
        found: Tensor = gate(weight).clone()  # a gate may return memory that its next call overwrites
    finally:
        for module, mode in modes.items():
            module.training = mode
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
