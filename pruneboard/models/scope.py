"""Which tensors of a network may be pruned, which of them decay, and whether images are normalized together."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.errors import UsageError

SCOPES = ("all",)
"""Scope policies. `all`: the weight of every convolution and linear layer, first and last included, no bias."""


def prunable_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers whose `weight` may be pruned, by name, in the order of `named_modules`.

    Every `Conv2d` and `Linear` (and subclasses) that owns a weight parameter; a weight used by several layers
    counts once, under its first name. To be called on a plain network: a parametrized layer owns no `weight`.

    Raises:
        UsageError: there is none, or a weight is shared with something that is no such layer.
    """
    first: dict[int, tuple[str, nn.Module]] = {}
    for name, module in gated_layers(model):
        first.setdefault(id(module.weight), (name, module))
    return list(first.values())


def gated_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every layer that computes with a prunable weight: `prunable_layers`, and those that share a weight of one.

    Raises:
        UsageError: as `prunable_layers`.
    """
    layers = [(name, module) for name, module in model.named_modules() if _prunable(module)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no convolution and no linear layer: there is nothing to prune")
    _refuse_other_holders(model, layers)
    return layers


def _prunable(module: nn.Module) -> bool:
    # An attribute of that name may be computed.
    return isinstance(module, (nn.Conv2d, nn.Linear)) and module._parameters.get("weight") is not None


def _refuse_other_holders(model: nn.Module, layers: Sequence[tuple[str, nn.Module]]) -> None:
    """A gate changes what a layer reads as its `weight`; whoever reads the parameter elsewhere would see it dense."""
    owners = {id(module.weight): name for name, module in reversed(layers)}
    for name, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if id(parameter) in owners and not (attribute == "weight" and _prunable(module)):
                place = f"{name}.{attribute}".lstrip(".")
                raise UsageError(
                    f"{type(model).__name__} cannot be pruned: the weight of its layer {owners[id(parameter)]} is "
                    f"also {place} ({type(module).__name__}), and a prunable weight may be shared by convolutions "
                    "and linear layers only; choose another model"
                )


def left_out(model: nn.Module) -> dict[str, int]:
    """Return the weights that the scope does not reach, with their numbers of entries, by parameter name.

    Convolutions of one or three dimensions, transposed and conditional ones, recurrent layers, torch's own
    multi-head attention: whatever has two dimensions or more and calls itself a weight. They are trained like
    any other parameter and never pruned.
    """
    inside = {id(module.weight) for _, module in gated_layers(model)}
    return {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if decays(name, parameter) and id(parameter) not in inside
    }


def standardized(module: nn.Module) -> bool:
    """Return whether a layer subtracts each filter's mean from its weight before it computes with it.

    Zeros stand in such a weight as stored, and not in the kernel that is used: none of its multiply-adds is saved.
    """
    return isinstance(module, (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame))


def uses_batch_statistics(model: nn.Module) -> bool:
    """Return whether any layer normalizes an image by the others of its batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def decays(name: str, parameter: Tensor) -> bool:
    """Return whether weight decay applies: to weights of two or more dimensions.

    Not to biases, normalization, layer scales, position embeddings or class tokens. `name` may be that of a
    parametrized weight (`conv1.parametrizations.weight.original`).
    """
    own_name = name.removesuffix(".original").rpartition(".")[2]
    return parameter.ndim >= 2 and "weight" in own_name  # an LSTM's is called `weight_ih_l0`
