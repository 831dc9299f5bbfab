"""Which tensors of a network may be pruned, which of them decay, and whether images are normalized together."""

from __future__ import annotations

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
        UsageError: there is none.
    """
    layers: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")  # an attribute of that name may be computed
        if isinstance(module, (nn.Conv2d, nn.Linear)) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            layers.append((name, module))
    if not layers:
        raise UsageError(f"{type(model).__name__} has no convolution and no linear layer: there is nothing to prune")
    return layers


def uses_batch_statistics(model: nn.Module) -> bool:
    """Return whether any layer normalizes an image by the others of its batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def decays(name: str, parameter: Tensor) -> bool:
    """Return whether weight decay applies: to weights of two or more dimensions.

    Not to biases, normalization, layer scales, position embeddings or class tokens. `name` may be that of a
    parametrized weight (`conv1.parametrizations.weight.original`).
    """
    return parameter.ndim >= 2 and name.removesuffix(".original").endswith("weight")
