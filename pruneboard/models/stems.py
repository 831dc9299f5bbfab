"""The first layers of a network, and the one rule by which they are chosen.

Networks made for photographs of 224 px shrink an image four- or sixteenfold before their first block. A
photograph of 32 px would be left with 8x8 positions, or 2x2. The rule, in this order:

1. `--stem stock` or `--stem small` says it. `small` for a network without a way to make one is refused.
2. **stock** where images were enlarged from a smaller original: the stem takes back what the enlarging
   added (`digits`: 8x8 pictures shown at 32 px lose nothing).
3. **stock** where the network sees more than 64 px.
4. **stock** where the network is one of `*_cifar`, whose stem is small as published, or belongs to no
   family of the table.
5. **small** otherwise: real images of 64 px and below.

What `small` means, by family (timm's modules). Nothing behind the first layers changes:

| family | small stem | loads as |
|---|---|---|
| resnet | first convolution 3x3 with stride 1 instead of 7x7 with stride 2 (of a deep stem, which is 3x3 \
already, the stride alone), no max-pool | `<name>_small_stem` |
| efficientnet, mobilenetv3 | first convolution with stride 1 | `<name>_small_stem` |
| vision_transformer, deit, beit, eva | patches of an eighth of the image's side, at least 2 px | the timm name \
with `img_size`, `patch_size` |
| convnext | patches of 2 px; not the overlapping stems (`*_ols`) | the timm name with `patch_size` |

`<name>_small_stem` is registered with timm when `pruneboard.models` is imported. With pretrained weights, a 7x7
convolution that became 3x3 starts from a fresh draw; all other layers keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from torch import nn

from pruneboard.errors import UsageError
from pruneboard.models.names import register, split_name
from pruneboard.models.standalone import SMALL_STEM, SURGERY

LARGEST_SMALL = 64
"""Side in pixels up to which a real image counts as small."""


def choose_stem(name: str, *, image_size: int, original_size: int, enlarged: bool, asked: str | None) -> str:
    """Return `stock` or `small` by the rule of this module.

    Args:
        name: of the model, with or without a pretrained tag.
        image_size: side at which the network sees the images, in pixels.
        original_size: side of the images as stored, in pixels; 0 where it differs or is not known.
        enlarged: the data set enlarges its images, whatever their size.
        asked: `--stem`; None follows the rule.

    Raises:
        UsageError: `small` was asked for and the family has no rule, or the name contradicts `asked`.
    """
    arch, _ = split_name(name)
    if arch.endswith(SMALL_STEM):
        _refuse_contradiction(name, asked)
        return "small"
    if asked == "small" and not has_small_stem(arch):
        raise UsageError(_no_rule(arch))
    if asked is not None:
        return asked
    real = not enlarged and not 0 < original_size < image_size
    return "small" if real and image_size <= LARGEST_SMALL and has_small_stem(arch) else "stock"


def has_small_stem(arch: str) -> bool:
    """Return whether the table has a small stem for this architecture."""
    return timm.is_model(arch + SMALL_STEM) or _arguments_for(arch) is not None


def small_stem(name: str, image_size: int) -> tuple[str, dict[str, object]]:
    """Return the name and the extra arguments under which `timm.create_model` makes `name` with a small stem."""
    arch, tag = split_name(name)
    arguments = _arguments_for(arch)
    if arguments is not None:
        return name, arguments(image_size)
    adapted = arch if arch.endswith(SMALL_STEM) else arch + SMALL_STEM
    return (f"{adapted}.{tag}" if tag else adapted), {}


def _refuse_contradiction(name: str, asked: str | None) -> None:
    if asked == "stock":
        raise UsageError(f"model {name} has the small stem by name: leave out --stem stock or {SMALL_STEM}")


def _no_rule(arch: str) -> str:
    if arch.endswith("_cifar"):
        return f"the stem of {arch} is small already: leave out --stem small"
    families = ", ".join([*SURGERY, *_ARGUMENTS])
    return f"no small stem is defined for {arch}, only for timm's families {families}: leave out --stem small"


def _patches(image_size: int) -> dict[str, object]:
    """An eighth of the side, or the next smaller patch that tiles the image."""
    largest = max(2, image_size // 8)
    tiling = [size for size in range(largest, 1, -1) if image_size % size == 0]
    return {"img_size": image_size, "patch_size": tiling[0] if tiling else largest}


def _pairs(_image_size: int) -> dict[str, object]:
    return {"patch_size": 2}


_ARGUMENTS: dict[str, Callable[[int], dict[str, object]]] = {
    "vision_transformer": _patches,
    "deit": _patches,
    "beit": _patches,
    "eva": _patches,
    "convnext": _pairs,
}
"""Families whose constructor takes the size of its patches."""


def _arguments_for(arch: str) -> Callable[[int], dict[str, object]] | None:
    if arch.startswith("convnext") and "_ols" in arch:  # two overlapping convolutions: `patch_size` is ignored
        return None
    return next((rule for family, rule in _ARGUMENTS.items() if timm.models.is_model_in_modules(arch, [family])), None)


def _entry(name: str, shrink: Callable[[Any], None]) -> Callable[..., nn.Module]:
    """Return the entry point of `name` with its first layers changed."""
    stock = timm.models.model_entrypoint(name)

    def entry(*args: object, **kwargs: object) -> nn.Module:
        if kwargs.get("features_only"):  # its table of reductions would be timm's, not this network's
            raise UsageError(f"{name}{SMALL_STEM} is a classifier: features_only is for stock stems")
        model: nn.Module = stock(*args, **kwargs)
        shrink(model)
        return model

    entry.__name__ = entry.__qualname__ = name + SMALL_STEM
    entry.__doc__ = f"timm's {name} with the small stem."
    return entry


def _register_all() -> None:
    """Register `<name>_small_stem` for every network of the families changed after construction."""
    for family, shrink in SURGERY.items():
        for name in timm.list_models(module=family):
            entry = register(_entry(name, shrink))
            globals()[entry.__name__] = entry  # timm lists it in this module's `__all__`


_register_all()
