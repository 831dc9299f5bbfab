"""Attach gates in front of weights, evaluate them, and fold them into plain weights.

A gate is attached with `torch.nn.utils.parametrize`: `module.weight` becomes a property that returns
`gate(dense weight)`, and the dense weight moves to `module.parametrizations.weight.original`. The network's own code
is unchanged, gates appear in `state_dict` and move with the network, and layers that read `weight` without being
called (attention that passes `qkv.weight` to `linear`) are pruned too. `fold` returns the state of the plain network.
"""

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
from pruneboard.errors import AuditError, PluginError, UsageError, described
from pruneboard.training import process_state

G = TypeVar("G", bound=Gate)

CHECKED_IN_GATES = (process_state.THREADS, process_state.DIRECTORY)
"""Settings compared in every forward pass: those that are cheap, and that no later comparison sees."""


class DrawKey:
    """The key of a method's random draws: seed, step and forward pass. The training loop updates it."""

    # Every generator is made anew from the key, and none is carried from one step to the next. So a draw depends only
    # on where in the run it is made: it is the same on every process, in a run resumed at this step, and for every
    # number of processes, and checkpoints need no random state.

    def __init__(self, seed: int) -> None:
        """Start at step 0, first forward pass."""
        self.seed = seed
        self.step = 0
        self.forward_pass = 0

    def gate_generator(self, index: int, device: torch.device) -> torch.Generator:
        """Return the generator of gate `index` in this forward pass, on the weight's device."""
        seed = key(self.seed, "gate", self.step, self.forward_pass, index)
        return torch.Generator(device).manual_seed(seed)

    def hook_generator(self, index: int) -> torch.Generator:
        """Return the CPU generator for hooks in this step: that of layer `index`, or with -1 that of the network."""
        return torch.Generator().manual_seed(key(self.seed, "hook", self.step, index))


def attach(
    pruner: Pruner[G], targets: Sequence[tuple[str, nn.Module]], draw_key: DrawKey, *, hits_target: bool
) -> tuple[Layer[G], ...]:
    """Attach one gate of `pruner` to every prunable weight.

    If several modules share a weight, the same gate is attached to each of them.

    Args:
        pruner: the method.
        targets: (name, module) of all layers with a prunable weight, as `models.gated_layers` lists them; the
            weight is `module.weight`. A shared weight is one layer, under its first name.
        draw_key: key of the gates' draws.
        hits_target: whether `Layer.keep` is set; if the sparsity emerges, it is None.

    Returns:
        The layers, in the order of `targets`. `Layer.keep` sums to n - round(sparsity * n).

    Raises:
        UsageError: at this sparsity no weight is kept.
        PluginError: a gate has a wrong type, shape or dtype, or a 0-dimensional parameter, or is that of another layer.
    """
    weights = _group_by_weight(targets)
    sizes = [weight.numel() for weight, _, _ in weights]
    total = scores.kept_of(sum(sizes), pruner.sparsity)
    if total == 0:
        raise UsageError(f"sparsity {pruner.sparsity} keeps none of the {sum(sizes)} prunable weights: lower it")
    keeps = scores.uniform(sizes, total) if hits_target else [None] * len(sizes)
    layers: list[Layer[G]] = []
    for index, ((weight, name, modules), keep) in enumerate(zip(weights, keeps, strict=True)):
        gate = pruner.gate(weight.detach())
        _check_gate(gate, weight, name)
        if (other := next((layer.name for layer in layers if layer.gate is gate), None)) is not None:
            raise PluginError(f"gate() returned the gate of layer {other} for layer {name} too: each needs its own")
        for module in modules:
            # unsafe=True skips torch's check, which would call the gate in training mode and let it draw.
            parametrize.register_parametrization(module, "weight", gate, unsafe=True)
            cast("Any", module).parametrizations.weight.__class__ = GatedWeight
        gate._source = partial(_source, draw_key, index, weight)
        layers.append(Layer(index, name, weight, gate, keep))
    return tuple(layers)  # a method receives it, and could add or remove a layer


def _group_by_weight(targets: Sequence[tuple[str, nn.Module]]) -> list[tuple[nn.Parameter, str, list[nn.Module]]]:
    """Return each weight once, with its first name and all modules that share it."""
    found: dict[int, tuple[nn.Parameter, str, list[nn.Module]]] = {}
    for name, module in targets:
        weight = cast("nn.Parameter", module.weight)
        found.setdefault(id(weight), (weight, name, []))[2].append(module)
    return list(found.values())


def _source(draw_key: DrawKey, index: int, weight: nn.Parameter) -> torch.Generator:
    return draw_key.gate_generator(index, weight.device)  # the model moves to its device only after `attach`


def _check_gate(gate: Gate, weight: nn.Parameter, name: str) -> None:
    if not isinstance(gate, Gate):
        raise PluginError(f"gate() must return a pruneboard.api.Gate; for layer {name} it returned {type(gate)}")
    # `deepspeed.initialize` broadcasts parameters by viewing them as bytes, which fails for 0-dimensional ones. Buffers
    # may be 0-dimensional: they are not broadcast. The same view fails for channels_last parameters, so a network is
    # converted to channels_last only after `initialize`, which also converts masks: `Mask.set` writes with `copy_`.
    for parameter_name, parameter in gate.named_parameters():
        if parameter.dim() == 0:
            raise PluginError(
                f"gate parameter {parameter_name!r} is 0-dimensional, which DeepSpeed cannot hold: use shape (1,)"
            )
    try:
        effective = gate.folded(weight)
    except Exception as error:
        raise PluginError(
            f"the gate of layer {name} fails in evaluation mode, where it may not draw: {type(error).__name__}: "
            f"{described(error)}"
        ) from error
    if effective.shape != weight.shape or effective.dtype != weight.dtype:
        raise PluginError(
            f"the gate of layer {name} turns {tuple(weight.shape)} {weight.dtype} "
            f"into {tuple(effective.shape)} {effective.dtype}: it must keep shape and dtype"
        )


def replace_gates(model: nn.Module, layers: Sequence[Layer[Any]], masks: Sequence[Tensor]) -> list[Layer[Any]]:
    """Replace every gate by a plain mask, and return the new layers.

    Args:
        model: with gates attached.
        layers: as `attach` returned them.
        masks: the positions to keep in each layer, bool tensors of the weights' shapes.
    """
    holders: dict[nn.Module, list[GatedWeight]] = defaultdict(list)
    for holder in gated_weights(model):
        holders[holder[0]].append(holder)
    replaced = []
    for layer, keep in zip(layers, masks, strict=True):
        mask = Mask(layer.dense.detach())
        mask.set(keep)
        for holder in holders[layer.gate]:
            holder[0] = mask
        replaced.append(dataclasses.replace(layer, gate=mask))
    return replaced


class GatedWeight(parametrize.ParametrizationList):
    """The weight of one module with its gate: `original` is the dense weight, item 0 the gate."""

    # A forward pass may read `module.weight` any number of times, and several modules may share a weight and its gate.
    # Each gate is evaluated once per pass all the same, because it may be costly. `cached_weights` sets `cached` for
    # that; torch's own `parametrize.cached` caches per module, and would evaluate a shared gate once per module.
    cached: tuple[Tensor, ...] = ()  # a tuple: assigning a tensor that is a Parameter would register it

    def forward(self) -> Tensor:
        """Return the effective weight: the cached one, else the gate's output for the dense weight."""
        return self.cached[0] if self.cached else super().forward()


def gated_weights(model: nn.Module) -> list[GatedWeight]:
    """Return the gated weights of `model`, one per module, even where modules share a weight."""
    return [module for module in model.modules() if isinstance(module, GatedWeight)]


@contextmanager
def cached_weights(holders: Sequence[GatedWeight]) -> Iterator[None]:
    """Evaluate every gate once, and let the network use the results as its weights during the block.

    Gates then run as plain Python before the forward pass, not inside it, so torch.compile never traces one.

    Raises:
        AuditError: a gate left a thread running or changed the working directory.
    """
    effective: dict[nn.Module, Tensor] = {}
    before = process_state.settings(CHECKED_IN_GATES)
    try:
        for holder in holders:
            gate = holder[0]
            if gate not in effective:
                effective[gate] = gate(holder.original)
            holder.cached = (effective[gate],)
        if (change := process_state.change(before)) is not None:
            raise AuditError(f"a gate {change}: a method may not change its process")
        yield
    finally:
        for holder in holders:
            holder.cached = ()


def gate_parameters(layers: Sequence[Layer[Any]]) -> list[nn.Parameter]:
    """Return the trainable parameters of all gates."""
    found = (tensor for layer in layers for tensor in _stored(layer.gate).values())
    return [p for p in dict.fromkeys(found) if isinstance(p, nn.Parameter) and p.requires_grad]


def gate_tensors(layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return every parameter and buffer of every gate, named `<layer>/<tensor>`."""
    return {f"{layer.name}/{name}": t.detach() for layer in layers for name, t in _stored(layer.gate).items()}


def _stored(gate: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and saved buffers of a gate by name, also if it overrides what torch calls for them."""
    found = {}
    for name, module in _modules(gate):
        held = vars(module)
        saved = {key: t for key, t in held["_buffers"].items() if key not in held["_non_persistent_buffers_set"]}
        found.update({f"{name}{key}": t for key, t in {**held["_parameters"], **saved}.items() if t is not None})
    return found


def _modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    yield prefix, module
    for name, part in vars(module)["_modules"].items():
        if part is not None:
            yield from _modules(part, f"{prefix}{name}.")


@torch.no_grad()
def folded_weights(layers: Sequence[Layer[Any]]) -> list[Tensor]:
    """Return the final effective weight of every layer, contiguous."""
    return [layer.gate.folded(layer.dense.detach()).detach().contiguous() for layer in layers]


class _Unsqueezed(nn.Module):
    """Parametrization of a 0-dimensional parameter: stored with shape (1,), used with shape ()."""

    def forward(self, stored: Tensor) -> Tensor:
        """Return the value with the shape that the network uses."""
        return stored.reshape(())

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the value with the shape that is stored."""
        return value.reshape(1)


def unsqueeze_scalars(model: nn.Module) -> None:
    """Store every 0-dimensional parameter with shape (1,), because DeepSpeed cannot broadcast others; `fold` undoes it.

    In timm's `dm_nfnet_*` the gain of a residual branch is such a parameter.
    """
    found = [(m, name) for m in model.modules() for name, p in m.named_parameters(recurse=False) if p.dim() == 0]
    for module, name in found:
        parametrize.register_parametrization(module, name, _Unsqueezed(), unsafe=True)


@torch.no_grad()
def fold(model: nn.Module, layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return the state of the plain network: every gate folded into its weight, without the gates' own state.

    The keys are those of the network without gates, and in its order unless it has 0-dimensional parameters. A shared
    weight is included under each of its names. Tensors are contiguous copies on the CPU.

    Raises:
        AuditError: a part of the network uses a layer's weight without its gate.
    """
    found = model.state_dict(keep_vars=True)  # parameters, not copies: a shared weight is recognized by identity
    weights = _folded_by_name(found, layers)
    state: dict[str, Tensor] = {}
    for name, tensor in found.items():
        plain = plain_name(name)
        if plain is None:
            continue
        weight = f"{plain.rpartition('.')[0]}.weight"
        if weight in weights:  # in the plain network the weight precedes the bias, in the gated one it follows
            state.setdefault(weight, weights[weight])
        if plain not in state:  # the weights are in, so a parametrized tensor that is not is an unsqueezed scalar
            state[plain] = tensor if plain == name else tensor.reshape(())
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _folded_by_name(found: Mapping[str, Tensor], layers: Sequence[Layer[Any]]) -> dict[str, Tensor]:
    """Return the folded weights under every name that they have in the plain network."""
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
    """Return the name in the plain network of a tensor of the gated network; None if it belongs to a gate."""
    path, parametrized, rest = f".{name}".partition(".parametrizations.")
    attribute, _, held = rest.partition(".")
    if not parametrized:
        return name
    return f"{path}.{attribute}".removeprefix(".") if held == "original" else None
