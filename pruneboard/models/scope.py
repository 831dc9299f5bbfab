"""The prunable weights of a network, the parameters with weight decay, and layers with special statistics."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.errors import UsageError

SCOPES = ("all",)
"""Scopes of pruning. `all`: the weights of all convolutions and linear layers, including first and last; no bias."""


def prunable_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers with a prunable `weight` and their names, in the order of `named_modules`.

    These are all `Conv2d` and `Linear` layers (and subclasses) that own a weight parameter. A weight shared by several
    layers counts once, under its first name. The network must be plain: a parametrized layer owns no `weight`.

    Raises:
        UsageError: there is no such layer, or a weight is shared with another kind of module.
    """
    first: dict[int, tuple[str, nn.Module]] = {}
    for name, module in gated_layers(model):
        first.setdefault(id(module.weight), (name, module))
    return list(first.values())


def gated_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every layer that uses a prunable weight: `prunable_layers` and the layers that share their weights.

    Raises:
        UsageError: as `prunable_layers`.
    """
    layers = [(name, module) for name, module in model.named_modules() if _prunable(module)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no convolution and no linear layer: there is nothing to prune")
    _refuse_other_users(model, layers)
    return layers


def _prunable(module: nn.Module) -> bool:
    # Not `module.weight`: a subclass or a parametrization may compute this attribute.
    return isinstance(module, (nn.Conv2d, nn.Linear)) and module._parameters.get("weight") is not None


def _refuse_other_users(model: nn.Module, layers: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse a weight that another kind of module also uses: it would read the dense weight, not the gated one."""
    owners = {id(module.weight): name for name, module in reversed(layers)}
    for name, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if id(parameter) in owners and not (attribute == "weight" and _prunable(module)):
                place = f"{name}.{attribute}".lstrip(".")
                raise UsageError(
                    f"{type(model).__name__} cannot be pruned: the weight of its layer {owners[id(parameter)]} is "
                    f"also {place} ({type(module).__name__}), and only convolutions and linear layers may share a "
                    "prunable weight; choose another model"
                )


def left_out(model: nn.Module) -> dict[str, int]:
    """Return the sizes of the weights outside the scope, by parameter name.

    A weight is a parameter with two or more dimensions and `weight` in its name. Outside the scope are those of 1D, 3D,
    transposed and conditional convolutions, recurrent layers, and torch's own multi-head attention. They are trained
    like other parameters but never pruned.
    """
    inside = {id(module.weight) for _, module in gated_layers(model)}
    return {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if decays(name, parameter) and id(parameter) not in inside
    }


def standardized(module: nn.Module) -> bool:
    """Return whether a layer uses weight standardization: it subtracts the mean of each filter before use.

    The stored weight may contain zeros, but the kernel that is used does not, so pruning saves no multiply-adds.
    """
    return isinstance(module, (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame))


def uses_batch_statistics(model: nn.Module) -> bool:
    """Return whether a layer normalizes an image by the others of its batch (batch normalization)."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def decays(name: str, parameter: Tensor) -> bool:
    """Return whether weight decay applies to a parameter: it does to weights with two or more dimensions.

    It does not apply to biases, normalization, layer scales, position embeddings and class tokens. `name` may be that
    of a parametrized weight (`conv1.parametrizations.weight.original`).
    """
    own_name = name.removesuffix(".original").rpartition(".")[2]
    return parameter.ndim >= 2 and "weight" in own_name  # an LSTM's is called `weight_ih_l0`
