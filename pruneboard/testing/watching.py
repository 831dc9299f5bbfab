"""One training under observation: what its hooks and gates touch that is not theirs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pruneboard.api import Pruner
from pruneboard.testing import referee, surroundings
from pruneboard.testing.bench import Bench, Trained, finish
from pruneboard.training.state import Training

R = TypeVar("R")
Snapshot = Mapping[str, Any]

MAY_RUN_THE_NETWORK = ("score", "harden")
"""Hooks that are lent a way to run the network: a view that counts its passes, and `validate`."""

BEFORE_THE_OPTIMIZER = ("score", "before_step", "harden")
"""Hooks that come before the first optimizer step, where they are called at step 0."""


@dataclass
class Findings:
    """What was seen, by what it is about.

    Attributes:
        wrong: the first thing that went wrong of each kind: `random`, `settings`, `modes`, `requires_grad`, `others`,
            `start`, `optimizer`, `passes`, `pruner`, `attributes`, `harness`.
        gradients: largest absolute gradient, by layer and tensor.
    """

    wrong: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    _trained: Trained | None = None

    @property
    def trained(self) -> Trained:
        """What came out."""
        assert self._trained is not None
        return self._trained

    def note(self, kind: str, message: str) -> None:
        """Remember the first message of a kind."""
        self.wrong.setdefault(kind, message)


@dataclass
class Watched(Training):
    """A training whose every hook is looked at before and after."""

    findings: Findings = field(default_factory=Findings)
    given: Mapping[str, Tensor] = field(default_factory=dict)
    inside: str | None = None
    """The hook that is running."""

    def hook(self, name: str, call: Callable[[], R]) -> R:
        """Run one of the plugin's functions and compare what it had no business with."""
        with unchanged(self.findings, f"{name} at step {self.draw_key.step}", lambda: _belongings(self)):
            self.inside = name
            try:
                result = super().hook(name, call)
            finally:
                self.inside = None
        if self.draw_key.step == 0 and name in BEFORE_THE_OPTIMIZER:
            self.look_at_start(name)
        return result

    def look_at_start(self, who: str) -> None:
        """Compare the weights with those that every method is given."""
        for layer in self.layers:
            if not torch.equal(layer.dense, self.given[f"{layer.name}.weight"]):
                self.findings.note("start", f"{who} changed the weight of layer {layer.name} before the first step")

    def look_at_pass(self, *_: Any) -> None:
        """Take note of a module of the network that runs where it has no business to."""
        if self.inside is not None and self.inside not in MAY_RUN_THE_NETWORK:
            self.findings.note("passes", f"{self.inside} at step {self.draw_key.step} ran the network")


def watch(bench: Bench) -> Findings:
    """Train, and return what was seen."""
    own = _own(bench.pruner)
    with surroundings.settings_kept(), referee.guarded() as replaced:
        found = _watched(bench)
    if _own(bench.pruner) != own:
        found.note("pruner", f"the training left {_difference(own, _own(bench.pruner))} of the pruner changed")
    for name in replaced:
        found.note("harness", f"the training replaced {name}")
    return found


def _watched(bench: Bench) -> Findings:
    run = Watched.from_training(bench.ready())
    run.given = {name: parameter.detach() for name, parameter in bench.network().named_parameters()}
    found = run.findings
    gates = {part for layer in run.layers for part in layer.gate.modules()}
    for module in run.engine.model.modules():
        if module not in gates:
            module.register_forward_pre_hook(run.look_at_pass)
    for layer in run.layers:
        _watch_gate(found, layer.gate, layer.name)
        for name, tensor in [("weight", layer.dense), *layer.gate.named_parameters()]:
            if tensor.requires_grad:
                _watch_gradient(found, f"{layer.name}/{name}", tensor)
    run.look_at_start("gate()")
    found._trained = finish(run)
    for layer in run.layers:
        _look_at_gate(found, layer.gate)
    return found


@contextmanager
def unchanged(found: Findings, who: str, snapshot: Callable[[], Mapping[str, Snapshot]]) -> Iterator[None]:
    """Note what `snapshot` finds changed after the block, by kind."""
    before = snapshot()
    yield
    for kind, after in snapshot().items():
        if (name := _difference(before[kind], after)) is not None:
            found.note(kind, f"{who} changed {name}")


def _belongings(run: Training) -> Mapping[str, Snapshot]:
    """Return what hooks must leave as they find it."""
    model = run.engine.model
    gates = [layer.gate for layer in run.layers]
    own = {id(tensor) for gate in gates for tensor in (*gate.parameters(), *gate.buffers())}
    own |= {id(layer.dense) for layer in run.layers}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "random": surroundings.random_state(),
        "settings": surroundings.settings(),
        "modes": {f"the mode of module {name or 'network'}": m.training for name, m in model.named_modules()},
        "requires_grad": {f"requires_grad of {name}": p.requires_grad for name, p in model.named_parameters()},
        "others": _bits({name: tensor for name, tensor in tensors if id(tensor) not in own})
        | _settings(model, {id(part) for gate in gates for part in gate.modules()}),
        "optimizer": {
            f"{key} of the optimizer's group {group['name']}": value if key != "params" else [id(p) for p in value]
            for group in run.engine.groups
            for key, value in group.items()
        },
    }


def _bits(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors.items()}


def _settings(model: nn.Module, gates: Container[int]) -> dict[str, Any]:
    """Return what modules are besides their tensors: numbers and texts, and how many hooks they have."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items() if id(module) not in gates else ():
            where = f"{name} of {path or 'the network'}"
            if name != "training" and isinstance(value, (bool, int, float, str, tuple)):
                found[where] = value
            elif name.endswith("_hooks"):
                found[where] = len(value)
    return found


def _watch_gate(found: Findings, gate: nn.Module, name: str) -> None:
    """Compare the global random states before and after each evaluation of a gate."""
    before: list[Snapshot] = []

    def enter(*_: Any) -> None:
        before.append(surroundings.random_state())

    def leave(*_: Any) -> None:
        if (state := _difference(before.pop(), surroundings.random_state())) is not None:
            found.note("random", f"the gate of layer {name} changed {state}")

    gate.register_forward_pre_hook(enter)
    gate.register_forward_hook(leave)


def _watch_gradient(found: Findings, name: str, tensor: Tensor) -> None:
    found.gradients[name] = 0.0

    def see(gradient: Tensor) -> None:
        found.gradients[name] = max(found.gradients[name], float(gradient.abs().max()))

    tensor.register_hook(see)  # type: ignore[no-untyped-call]


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _look_at_gate(found: Findings, gate: nn.Module) -> None:
    for module in gate.modules():
        for name, value in vars(module).items():
            if name not in _OF_EVERY_MODULE and _holds_tensor(value):
                found.note("attributes", f"attribute {name} of {type(module).__name__} holds a tensor")


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensor(item) for item in value.values())
    if isinstance(value, (list, tuple, set)):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, Tensor)


def _own(pruner: Pruner[Any]) -> Snapshot:
    """Return the pruner's attributes as text: those of its class too, which outlive it."""
    lasting = {name: value for name, value in vars(type(pruner)).items() if name[:2] != "__"}
    of_class = {f"class attribute {name}": repr(value) for name, value in lasting.items()}
    return {f"attribute {name}": repr(value) for name, value in vars(pruner).items()} | of_class


def _difference(before: Snapshot, after: Snapshot) -> str | None:
    """Return the first name whose value changed, came or went."""
    for name in (*before, *(name for name in after if name not in before)):
        if name not in before or name not in after or before[name] != after[name]:
            return name
    return None
