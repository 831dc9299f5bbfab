"""Gates in, plain weights out: attach, fold, and the key under which gates draw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneboard import scores
from pruneboard.api import Gate, Layer, Pruner
from pruneboard.draws import key
from pruneboard.errors import PluginError, UsageError

G = TypeVar("G", bound=Gate)


class DrawClock:
    """Where in the run draws are made: the training loop moves it, gates and hooks read it."""

    def __init__(self, seed: int) -> None:
        """Start at step 0, first forward pass."""
        self.seed = seed
        self.step = 0
        self.forward_pass = 0

    def for_gate(self, index: int, device: torch.device) -> torch.Generator:
        """Return the generator of one gate in this forward pass, on the weight's device."""
        seed = key(self.seed, "gate", self.step, self.forward_pass, index)
        return torch.Generator(device).manual_seed(seed)

    def for_hook(self, index: int) -> torch.Generator:
        """Return the CPU generator that hooks get in this step, for a layer or (-1) for all."""
        return torch.Generator().manual_seed(key(self.seed, "hook", self.step, index))


def attach(
    pruner: Pruner[G], targets: Sequence[tuple[str, nn.Module]], clock: DrawClock, *, hits_target: bool
) -> list[Layer[G]]:
    """Put one gate of `pruner` in front of every prunable weight.

    Args:
        pruner: the method.
        targets: (name, module) of the prunable layers; the weight is `module.weight`.
        clock: keys the gates' draws.
        hits_target: whether layers carry the budget.

    Returns:
        The layers, in the order of `targets`; `Layer.keep` sums to n - round(sparsity * n).

    Raises:
        UsageError: the sparsity keeps no weight at all.
        PluginError: a gate of the wrong type, shape or dtype, or with a 0-dimensional parameter.
    """
    sizes = [cast("nn.Parameter", module.weight).numel() for _, module in targets]
    total = scores.kept_of(sum(sizes), pruner.sparsity)
    if total == 0:
        raise UsageError(f"sparsity {pruner.sparsity} keeps none of the {sum(sizes)} prunable weights: lower it")
    keeps = scores.uniform(sizes, total) if hits_target else [None] * len(sizes)
    layers = []
    for index, ((name, module), keep) in enumerate(zip(targets, keeps, strict=True)):
        layers.append(_attach_one(pruner, index, name, module, clock, keep))
    return layers


def _attach_one(
    pruner: Pruner[G], index: int, name: str, module: nn.Module, clock: DrawClock, keep: int | None
) -> Layer[G]:
    weight = cast("nn.Parameter", module.weight)
    gate = pruner.gate(weight.detach())
    _check(gate, weight, name)
    # Our own check stands above: the library's would run a training forward, and draw.
    parametrize.register_parametrization(module, "weight", gate, unsafe=True)
    original = cast("Any", module).parametrizations.weight.original
    gate._source = partial(_source, clock, index, original)
    return Layer(index, name, original, gate, keep)


def _source(clock: DrawClock, index: int, weight: nn.Parameter) -> torch.Generator:
    return clock.for_gate(index, weight.device)  # asked anew: the model moves to its device after `attach`


def _check(gate: Gate, weight: nn.Parameter, name: str) -> None:
    if not isinstance(gate, Gate):
        raise PluginError(f"gate() must return a pruneboard.api.Gate; for layer {name} it returned {type(gate)}")
    for parameter_name, parameter in gate.named_parameters():
        if parameter.dim() == 0:
            raise PluginError(
                f"gate parameter {parameter_name!r} has no dimension, which DeepSpeed cannot hold: use shape (1,)"
            )
    effective = gate.folded(weight)
    if effective.shape != weight.shape or effective.dtype != weight.dtype:
        raise PluginError(
            f"the gate of layer {name} turns {tuple(weight.shape)} {weight.dtype} "
            f"into {tuple(effective.shape)} {effective.dtype}: shape and dtype must stay"
        )


def gate_parameters(layers: Sequence[Layer[Any]]) -> list[nn.Parameter]:
    """Return the trainable parameters of all gates."""
    return [p for layer in layers for p in layer.gate.parameters() if p.requires_grad]


def gate_tensors(layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return every parameter and buffer of every gate, named `<layer>/<tensor>`."""
    return {
        f"{layer.name}/{name}": tensor
        for layer in layers
        for name, tensor in layer.gate.state_dict(keep_vars=False).items()
    }


@torch.no_grad()
def folded_weights(layers: Sequence[Layer[Any]]) -> list[Tensor]:
    """Return the final effective weight of every layer, contiguous."""
    return [layer.gate.folded(layer.dense.detach()).detach().contiguous() for layer in layers]


@torch.no_grad()
def fold(model: nn.Module, layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return the state of the plain model: every gate folded into its weight, gate state dropped.

    The keys, in order, are those of the same network without gates. Tensors are contiguous copies on the CPU.
    """
    weights = dict(zip((layer.name for layer in layers), folded_weights(layers), strict=True))
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        path, gated, _ = name.partition(".parametrizations.weight.")
        owner = path if gated else name.rpartition(".")[0]
        if owner in weights:  # a plain layer's weight stands before its bias, a parametrized one's after it
            state.setdefault(f"{owner}.weight", weights[owner])
        if not gated:
            state[name] = tensor
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
