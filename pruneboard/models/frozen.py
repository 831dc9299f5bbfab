"""The supermask track's networks: weights drawn once by the board's rule and frozen, nothing learned but masks.

    signed-constant    w = +-std    with the sign of a normal draw
    kaiming-normal     w = N(0, std^2)
    std = sqrt(2 / fan_in),    fan_in = inputs of one output (input channels of a group x kernel)

Under `<rule>-scaled`, fan_in is multiplied by the share of weights that is kept, 1 - sparsity, so that a
layer's outputs keep their variance when the others are gone (arXiv:1911.13299, section 3.3). The official code
(allenai/hidden-networks@dddf2d0 utils/builder.py:94) multiplies by the share that is *removed* instead.

Normalization has scale 1 and shift 0, the gains of weight-standardized convolutions and of residual branches are 1
(timm starts some at 0, where the branch would be dead for good), and every bias is 0. What else a network learns
(position embeddings, class tokens, layer scales) stays at its seeded draw; layer scales that start at 1e-6, as
ConvNeXt's, leave little of their branches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pruneboard import draws
from pruneboard.models.building import build_model
from pruneboard.models.planning import ModelPlan
from pruneboard.models.scope import prunable_layers
from pruneboard.spec import SCALED


def build_frozen(plan: ModelPlan, *, init: str, keep_ratio: float, seed: int) -> nn.Module:
    """Build the network of `plan` with no trainable parameter.

    Args:
        plan: made by `plan_model`.
        init: one of `spec.SUPERMASK_INITS`.
        keep_ratio: 1 - sparsity; only the scaled rules depend on it.
        seed: equal seeds give equal weights, bit for bit.
    """
    return freeze(build_model(plan, seed=seed), init=init, keep_ratio=keep_ratio, seed=seed)


def freeze(model: nn.Module, *, init: str, keep_ratio: float, seed: int) -> nn.Module:
    """Draw the weights of a plain network by the track's rule, in place, and make none of them trainable.

    The arguments are those of `build_frozen`.
    """
    with torch.no_grad():
        for parameter, value in _constants(model):
            parameter.fill_(value)
        weights = [module.get_parameter("weight") for _, module in prunable_layers(model)]
        drawn = draw_weights([tuple(w.shape) for w in weights], init, keep_ratio, draws.key(seed, "weights"))
        for weight, new in zip(weights, drawn, strict=True):
            weight.copy_(new)
    return model.requires_grad_(requires_grad=False)


def draw_weights(shapes: Sequence[tuple[int, ...]], init: str, keep_ratio: float, seed: int) -> list[Tensor]:
    """Return one float32 weight per shape, [outputs, ...], drawn by the rule of this module on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    share = keep_ratio if init.endswith(SCALED) else 1.0
    return [_draw(shape, init.removesuffix(SCALED), share, generator) for shape in shapes]


def redraw_weights(shapes: Sequence[tuple[int, ...]], init: str, keep_ratio: float, seed: int) -> list[Tensor]:
    """Return other weights of the same distribution: those of the ablation `redrawn-weights`.

    Args:
        shapes: of every prunable layer, in order.
        init: one of `spec.SUPERMASK_INITS`.
        keep_ratio: 1 - sparsity.
        seed: the seed that initialized the network.
    """
    return draw_weights(shapes, init, keep_ratio, draws.key(seed, "redrawn weights"))


def _draw(shape: tuple[int, ...], rule: str, share: float, generator: torch.Generator) -> Tensor:
    std = math.sqrt(2 / (share * math.prod(shape[1:])))
    normal = torch.randn(shape, generator=generator)
    return torch.where(normal < 0, -std, std) if rule == "signed-constant" else normal * std


def extras(model: nn.Module) -> int:
    """Return how many frozen numbers are neither prunable nor a constant: embeddings, tokens, layer scales."""
    known = {id(parameter) for parameter, _ in _constants(model)}
    known |= {id(module.get_parameter("weight")) for _, module in prunable_layers(model)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in known)


def _constants(model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
    """Yield the parameters that the track fixes, with their value."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or name.endswith("_bias"):
                yield parameter, 0.0
            elif is_scale(module, name):
                yield parameter, 1.0


def is_scale(module: nn.Module, name: str) -> bool:
    """Return whether the parameter `name` of `module` scales a channel or a branch: a normalization scale or a gain.

    timm starts the last of every residual branch at 0, so that nothing flows through the branch at first.
    """
    return name.endswith("gain") or (name == "weight" and _normalizes(module))


def _normalizes(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()  # torch's and timm's all say so, and share no base class
