"""Networks of the supermask track: frozen random weights, drawn by the board's init rule; only masks are learned.

    signed-constant    w = +-std    with the sign of a normal draw
    kaiming-normal     w ~ N(0, std^2)
    std = sqrt(2 / fan_in),    fan_in = inputs of one output (input channels per group x kernel size)

With `<rule>-scaled`, fan_in is multiplied by the kept fraction of weights, 1 - sparsity, so that a layer's outputs keep
their variance after pruning (arXiv:1911.13299, section 3.3). The official code (allenai/hidden-networks@dddf2d0
utils/builder.py:94) multiplies by the *removed* fraction instead.

The draws are fixed: one generator, keyed by the run's init seed, draws the prunable layers in the order of
`prunable_layers`, on the CPU and in float32. Both rules use the same normal draws, so their signs agree. Verification
can therefore redraw the weights bit for bit from the seed.

Normalization has scale 1 and shift 0, every bias is 0, and the gains of weight-standardized convolutions and residual
branches are 1: timm initializes some gains to 0, and a frozen 0 would switch the branch off permanently. All other
parameters (position embeddings, class tokens, layer scales) keep their seeded initialization. Layer scales that start
at 1e-6, such as ConvNeXt's, let little of their branch through.
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
    """Build the network of `plan` with frozen weights and no trainable parameter.

    Args:
        plan: the result of `plan_model`.
        init: one of `spec.SUPERMASK_INITS`.
        keep_ratio: 1 - sparsity; only the scaled rules depend on it.
        seed: equal seeds give the same weights bit for bit.
    """
    return freeze(build_model(plan, seed=seed), init=init, keep_ratio=keep_ratio, seed=seed)


def freeze(model: nn.Module, *, init: str, keep_ratio: float, seed: int) -> nn.Module:
    """Redraw the weights of a plain network by an init rule, in place, and make all parameters untrainable.

    The arguments are those of `build_frozen`.
    """
    with torch.no_grad():
        for parameter, value in _fixed_parameters(model):
            parameter.fill_(value)
        weights = [module.get_parameter("weight") for _, module in prunable_layers(model)]
        drawn = draw_weights([tuple(w.shape) for w in weights], init, keep_ratio, draws.key(seed, "weights"))
        for weight, new in zip(weights, drawn, strict=True):
            weight.copy_(new)
    return model.requires_grad_(requires_grad=False)


def draw_weights(shapes: Sequence[tuple[int, ...]], init: str, keep_ratio: float, seed: int) -> list[Tensor]:
    """Draw one float32 weight per shape [outputs, ...] by the init rule, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    kept = keep_ratio if init.endswith(SCALED) else 1.0
    return [_draw(shape, init.removesuffix(SCALED), kept, generator) for shape in shapes]


def redraw_weights(shapes: Sequence[tuple[int, ...]], init: str, keep_ratio: float, seed: int) -> list[Tensor]:
    """Draw other weights of the same distribution, for the ablation `redrawn-weights`.

    Args:
        shapes: shapes of all prunable weights, in order.
        init: one of `spec.SUPERMASK_INITS`.
        keep_ratio: 1 - sparsity.
        seed: the seed that initialized the network.
    """
    return draw_weights(shapes, init, keep_ratio, draws.key(seed, "redrawn weights"))


def _draw(shape: tuple[int, ...], rule: str, kept: float, generator: torch.Generator) -> Tensor:
    std = math.sqrt(2 / (kept * math.prod(shape[1:])))
    normal = torch.randn(shape, generator=generator)
    return torch.where(normal < 0, -std, std) if rule == "signed-constant" else normal * std


def extras(model: nn.Module) -> int:
    """Count the frozen numbers that are neither prunable nor constant: embeddings, tokens, layer scales."""
    determined = {id(parameter) for parameter, _ in _fixed_parameters(model)}
    determined |= {id(module.get_parameter("weight")) for _, module in prunable_layers(model)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in determined)


def _fixed_parameters(model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
    """Yield the parameters that have the same value in every frozen network, with this value."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or name.endswith("_bias"):
                yield parameter, 0.0
            elif is_scale(module, name):
                yield parameter, 1.0


def is_scale(module: nn.Module, name: str) -> bool:
    """Return whether the parameter `name` of `module` scales a channel or a branch: a normalization scale or a gain.

    timm initializes the last one of each residual branch to 0, so that the branch has no effect at first.
    """
    return name.endswith("gain") or (name == "weight" and _normalizes(module))


def _normalizes(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()  # these layers of torch and timm have no common base class
