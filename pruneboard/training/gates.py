"""Gates in, plain weights out: attach, fold, and the key under which gates draw."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneboard import scores
from pruneboard.api import Gate, Layer, Mask, Pruner
from pruneboard.draws import key
from pruneboard.errors import AuditError, PluginError, UsageError

G = TypeVar("G", bound=Gate)


class DrawKey:
    """Where in the run draws are made: the training loop moves it, gates and hooks read it."""

    def __init__(self, seed: int) -> None:
        """Start at step 0, first forward pass."""
        self.seed = seed
        self.step = 0
        self.forward_pass = 0

    def gate_generator(self, index: int, device: torch.device) -> torch.Generator:
        """Return the generator of one gate in this forward pass, on the weight's device."""
        seed = key(self.seed, "gate", self.step, self.forward_pass, index)
        return torch.Generator(device).manual_seed(seed)

    def hook_generator(self, index: int) -> torch.Generator:
        """Return the CPU generator that hooks get in this step, for a layer or (-1) for all."""
        return torch.Generator().manual_seed(key(self.seed, "hook", self.step, index))


def attach(
    pruner: Pruner[G], targets: Sequence[tuple[str, nn.Module]], draw_key: DrawKey, *, hits_target: bool
) -> list[Layer[G]]:
    """Put one gate of `pruner` in front of every prunable weight.

    Where several modules hold the same weight, the same gate stands in front of each.

    Args:
        pruner: the method.
        targets: (name, module) of all layers with a prunable weight, as `models.gated_layers` lists them; the
            weight is `module.weight`. A shared one counts once, under the name that comes first.
        draw_key: keys the gates' draws.
        hits_target: whether layers carry the budget.

    Returns:
        The layers, in the order of `targets`; `Layer.keep` sums to n - round(sparsity * n).

    Raises:
        UsageError: the sparsity keeps no weight at all.
        PluginError: a gate of the wrong type, shape or dtype, or with a 0-dimensional parameter.
    """
    weights = _by_weight(targets)
    sizes = [weight.numel() for weight, _, _ in weights]
    total = scores.kept_of(sum(sizes), pruner.sparsity)
    if total == 0:
        raise UsageError(f"sparsity {pruner.sparsity} keeps none of the {sum(sizes)} prunable weights: lower it")
    keeps = scores.uniform(sizes, total) if hits_target else [None] * len(sizes)
    layers = []
    for index, ((weight, name, modules), keep) in enumerate(zip(weights, keeps, strict=True)):
        gate = pruner.gate(weight.detach())
        _check(gate, weight, name)
        for module in modules:
            # Our own check stands above: the library's would run a training forward, and draw.
            parametrize.register_parametrization(module, "weight", gate, unsafe=True)
            cast("Any", module).parametrizations.weight.__class__ = GatedWeight
        gate._source = partial(_source, draw_key, index, weight)
        layers.append(Layer(index, name, weight, gate, keep))
    return layers


def _by_weight(targets: Sequence[tuple[str, nn.Module]]) -> list[tuple[nn.Parameter, str, list[nn.Module]]]:
    """Return each weight once, with the name it has first and the modules that hold it."""
    found: dict[int, tuple[nn.Parameter, str, list[nn.Module]]] = {}
    for name, module in targets:
        weight = cast("nn.Parameter", module.weight)
        found.setdefault(id(weight), (weight, name, []))[2].append(module)
    return list(found.values())


def _source(draw_key: DrawKey, index: int, weight: nn.Parameter) -> torch.Generator:
    return draw_key.gate_generator(index, weight.device)  # asked anew: the model moves to its device after `attach`


def _check(gate: Gate, weight: nn.Parameter, name: str) -> None:
    if not isinstance(gate, Gate):
        raise PluginError(f"gate() must return a pruneboard.api.Gate; for layer {name} it returned {type(gate)}")
    for parameter_name, parameter in gate.named_parameters():
        if parameter.dim() == 0:
            raise PluginError(
                f"gate parameter {parameter_name!r} has no dimension, which DeepSpeed cannot hold: use shape (1,)"
            )
    try:
        effective = gate.folded(weight)
    except Exception as error:
        raise PluginError(
            f"the gate of layer {name} fails outside training, where it may not draw: {type(error).__name__}: {error}"
        ) from error
    if effective.shape != weight.shape or effective.dtype != weight.dtype:
        raise PluginError(
            f"the gate of layer {name} turns {tuple(weight.shape)} {weight.dtype} "
            f"into {tuple(effective.shape)} {effective.dtype}: shape and dtype must stay"
        )


def replace_gates(model: nn.Module, layers: Sequence[Layer[Any]], masks: Sequence[Tensor]) -> list[Layer[Any]]:
    """Put a plain mask in the place of every gate, and return the layers with them.

    Args:
        model: with gates attached.
        layers: as `attach` returned them.
        masks: what each layer is to keep, bool tensors of the weights' shapes.
    """
    places: dict[nn.Module, list[GatedWeight]] = defaultdict(list)
    for chain in gated_weights(model):
        places[chain[0]].append(chain)
    replaced = []
    for layer, keep in zip(layers, masks, strict=True):
        mask = Mask(layer.dense.detach())
        mask.set(keep)
        for chain in places[layer.gate]:
            chain[0] = mask
        replaced.append(dataclasses.replace(layer, gate=mask))
    return replaced


class GatedWeight(parametrize.ParametrizationList):
    """What stands in front of one gated weight: the dense weight is its `original`, the gate its item 0."""

    held: tuple[Tensor, ...] = ()  # a tuple, because a parameter as an attribute would be registered

    def forward(self) -> Tensor:
        """Return the effective weight: the one that is held, else what the gate makes of the dense one."""
        return self.held[0] if self.held else super().forward()


def gated_weights(model: nn.Module) -> list[GatedWeight]:
    """Return what `attach` put in front of the weights, one per module."""
    return [module for module in model.modules() if isinstance(module, GatedWeight)]


@contextmanager
def computed(gated: Sequence[GatedWeight]) -> Iterator[None]:
    """Evaluate every gate once, and let the network use the results as its weights while the block lasts.

    Gates then run before a forward pass instead of within, as plain Python, whatever runs the network: a compiler
    never sees one.
    """
    effective: dict[nn.Module, Tensor] = {}
    try:
        for chain in gated:
            gate = chain[0]
            if gate not in effective:
                effective[gate] = gate(chain.original)
            chain.held = (effective[gate],)
        yield
    finally:
        for chain in gated:
            chain.held = ()


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


class _Scalar(nn.Module):
    """Stands in front of a parameter without dimension: it is stored with one and used without."""

    def forward(self, stored: Tensor) -> Tensor:
        """Return the value as the network uses it."""
        return stored.reshape(())

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the value as it is stored."""
        return value.reshape(1)


def unsqueeze_scalars(model: nn.Module) -> None:
    """Give every parameter without dimension one, which DeepSpeed needs; `fold` takes it back.

    The gain of a residual branch is such a parameter in timm's `dm_nfnet_*`.
    """
    found = [(m, name) for m in model.modules() for name, p in m.named_parameters(recurse=False) if p.dim() == 0]
    for module, name in found:
        parametrize.register_parametrization(module, name, _Scalar(), unsafe=True)


@torch.no_grad()
def fold(model: nn.Module, layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return the state of the plain model: every gate folded into its weight, gate state dropped.

    The keys are those of the same network without gates, in its order where it has no `unsqueeze_scalars`: a shared
    weight stands under each of its names. Tensors are contiguous copies on the CPU.

    Raises:
        AuditError: something of the network uses a layer's weight past its gate.
    """
    found = model.state_dict(keep_vars=True)  # the parameters themselves, by which a shared weight is known
    weights = _folded_by_name(found, layers)
    state: dict[str, Tensor] = {}
    for name, tensor in found.items():
        plain = plain_name(name)
        if plain is None:
            continue
        weight = f"{plain.rpartition('.')[0]}.weight"
        if weight in weights:  # a plain layer's weight stands before its bias, a parametrized one's after it
            state.setdefault(weight, weights[weight])
        if plain not in state:  # of what is parametrized only scalars are left
            state[plain] = tensor if plain == name else tensor.reshape(())
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _folded_by_name(found: Mapping[str, Tensor], layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return the folded weights under all names that the plain network has for them."""
    of = {id(layer.dense): (layer, weight) for layer, weight in zip(layers, folded_weights(layers), strict=True)}
    weights = {}
    for name, tensor in found.items():
        if id(tensor) in of:
            layer, weight = of[id(tensor)]
            plain = plain_name(name)
            if plain is None or plain == name:
                raise AuditError(f"{name} is the weight of layer {layer.name}, used without the gate in front of it")
            weights[plain] = weight
    return weights


def plain_name(name: str) -> str | None:
    """Return what the plain network calls a tensor of the gated one; None for the state of a gate."""
    path, parametrized, rest = f".{name}".partition(".parametrizations.")
    attribute, _, held = rest.partition(".")
    if not parametrized:
        return name
    return f"{path}.{attribute}".removeprefix(".") if held == "original" else None
