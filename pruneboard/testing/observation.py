"""Observes one trial training, and reports what hooks and gates change outside their own state."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pruneboard.api import Pruner
from pruneboard.testing.trial import Trial, TrialResult, finish
from pruneboard.training import harness_guard, process_state
from pruneboard.training.state import Training

R = TypeVar("R")
Snapshot = Mapping[str, Any]

MAY_RUN_THE_NETWORK = ("score", "harden")
"""Hooks that may run the network: `score` through a view that counts its passes, `harden` through `validate`."""

BEFORE_THE_OPTIMIZER = ("score", "before_step", "harden")
"""Hooks that run before the first optimizer step when they are called at step 0."""


@dataclass
class Observations:
    """What was observed, by kind.

    Attributes:
        violations: first message of each kind: `random`, `settings`, `modes`, `requires_grad`, `others`, `start`,
            `optimizer`, `passes`, `pruner`, `attributes`, `harness`.
        gradients: largest absolute gradient during training, by `layer/tensor`.
    """

    violations: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    _result: TrialResult | None = None

    @property
    def result(self) -> TrialResult:
        """The result of the training."""
        assert self._result is not None
        return self._result

    def note(self, kind: str, message: str) -> None:
        """Store the message if it is the first of its kind."""
        self.violations.setdefault(kind, message)


@dataclass
class ObservedTraining(Training):
    """A training that takes a snapshot of the process and the network before and after every hook."""

    observations: Observations = field(default_factory=Observations)
    initial_weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Initial parameters, by name in the plain network."""
    running_hook: str | None = None

    def hook(self, name: str, call: Callable[[], R]) -> R:
        """Run one of the method's hooks and note everything it changed that does not belong to it."""

        def observed() -> R:  # inside of `super().hook`, which undoes some changes
            with unchanged(self.observations, f"{name} at step {self.draw_key.step}", lambda: _protected(self)):
                return call()

        self.running_hook = name
        try:
            result = super().hook(name, observed)
        finally:
            self.running_hook = None
        if self.draw_key.step == 0 and name in BEFORE_THE_OPTIMIZER:
            self.check_initial_weights(name)
        return result

    def check_initial_weights(self, who: str) -> None:
        """Compare the weights with the initial weights that every method gets."""
        for layer in self.layers:
            if not torch.equal(layer.dense, self.initial_weights[f"{layer.name}.weight"]):
                self.observations.note("start", f"{who} changed the weight of layer {layer.name} before the first step")

    def check_pass(self, *_: Any) -> None:
        """Note a forward pass inside a hook that may not run the network (a forward hook of every module)."""
        if self.running_hook is not None and self.running_hook not in MAY_RUN_THE_NETWORK:
            self.observations.note("passes", f"{self.running_hook} at step {self.draw_key.step} ran the network")


def observe(trial: Trial) -> Observations:
    """Run the training and return what was observed."""
    before = _attributes(trial.pruner)
    with process_state.settings_restored(), harness_guard.harness_restored() as replaced:
        found = _observe_training(trial)
    after = _attributes(trial.pruner)
    if after != before:
        found.note("pruner", f"the training left {_difference(before, after)} of the pruner changed")
    for name in replaced:
        found.note("harness", f"the training replaced {name}")
    return found


def _observe_training(trial: Trial) -> Observations:
    run = ObservedTraining.from_training(trial.build())
    run.initial_weights = {name: parameter.detach() for name, parameter in trial.network().named_parameters()}
    found = run.observations
    gates = {part for layer in run.layers for part in layer.gate.modules()}
    for module in run.engine.model.modules():
        if module not in gates:
            module.register_forward_pre_hook(run.check_pass)
    for layer in run.layers:
        _observe_gate(found, layer.gate, layer.name)
        for name, tensor in [("weight", layer.dense), *layer.gate.named_parameters()]:
            if tensor.requires_grad:
                _observe_gradient(found, f"{layer.name}/{name}", tensor)
    run.check_initial_weights("gate()")
    found._result = finish(run)
    for layer in run.layers:
        _check_gate_attributes(found, layer.gate)
    return found


@contextmanager
def unchanged(found: Observations, who: str, snapshot: Callable[[], Mapping[str, Snapshot]]) -> Iterator[None]:
    """Note, per kind, the first difference between the snapshots before and after the block."""
    before = snapshot()
    yield
    for kind, after in snapshot().items():
        if (name := _difference(before[kind], after)) is not None:
            found.note(kind, f"{who} changed {name}")


def _protected(run: Training) -> Mapping[str, Snapshot]:
    """Return, by kind, the values that hooks must not change."""
    model = run.engine.model
    gates = [layer.gate for layer in run.layers]
    own = {id(tensor) for gate in gates for tensor in (*gate.parameters(), *gate.buffers())}
    own |= {id(layer.dense) for layer in run.layers}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "random": process_state.random_state(),
        "settings": process_state.settings(),
        "modes": {f"the mode of module {name or 'network'}": m.training for name, m in model.named_modules()},
        "requires_grad": {f"requires_grad of {name}": p.requires_grad for name, p in model.named_parameters()},
        "others": _bits({name: tensor for name, tensor in tensors if id(tensor) not in own})
        | _module_settings(model, {id(part) for gate in gates for part in gate.modules()}),
        "pruner": {f"{name} of the pruner": value for name, value in _attributes(run.pruner).items()},
        "optimizer": {
            f"{key} of the optimizer's group {group['name']}": value if key != "params" else [id(p) for p in value]
            for group in run.engine.groups
            for key, value in group.items()
        },
    }


def _bits(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors.items()}


def _module_settings(model: nn.Module, gates: Container[int]) -> dict[str, Any]:
    """Return the plain attributes (numbers, strings, tuples) and hook counts of all modules except gates."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items() if id(module) not in gates else ():
            where = f"{name} of {path or 'the network'}"
            if name != "training" and isinstance(value, (bool, int, float, str, tuple)):
                found[where] = value
            elif name.endswith("_hooks"):
                found[where] = len(value)
    return found


def _observe_gate(found: Observations, gate: nn.Module, name: str) -> None:
    """Compare the global random states before and after each evaluation of a gate."""
    before: list[Snapshot] = []  # a stack: a gate may evaluate itself

    def enter(*_: Any) -> None:
        before.append(process_state.random_state())

    def leave(*_: Any) -> None:
        if (state := _difference(before.pop(), process_state.random_state())) is not None:
            found.note("random", f"the gate of layer {name} changed {state}")

    gate.register_forward_pre_hook(enter)
    gate.register_forward_hook(leave)


def _observe_gradient(found: Observations, name: str, tensor: Tensor) -> None:
    found.gradients[name] = 0.0

    def update_maximum(gradient: Tensor) -> None:
        found.gradients[name] = max(found.gradients[name], float(gradient.abs().max()))

    tensor.register_hook(update_maximum)  # type: ignore[no-untyped-call]


_ATTRIBUTES_OF_MODULES = frozenset(vars(nn.Module()))


def _check_gate_attributes(found: Observations, gate: nn.Module) -> None:
    for module in gate.modules():
        for name, value in vars(module).items():
            if name not in _ATTRIBUTES_OF_MODULES and _holds_tensor(value):
                found.note("attributes", f"attribute {name} of {type(module).__name__} holds a tensor")


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensor(item) for item in value.values())
    if isinstance(value, (list, tuple, set)):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, Tensor)


def _attributes(pruner: Pruner[Any]) -> Snapshot:
    """Return the attributes of the pruner and of its class (which outlive the pruner), as text."""
    lasting = {name: value for name, value in vars(type(pruner)).items() if name[:2] != "__"}
    of_class = {f"class attribute {name}": repr(value) for name, value in lasting.items()}
    return {f"attribute {name}": repr(value) for name, value in vars(pruner).items()} | of_class


def _difference(before: Snapshot, after: Snapshot) -> str | None:
    """Return the first name that was added, removed or changed its value; None if the snapshots are equal."""
    for name in (*before, *(name for name in after if name not in before)):
        if name not in before or name not in after or before[name] != after[name]:
            return name
    return None
