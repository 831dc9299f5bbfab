"""Stems: the first layers of a network, and the rule that chooses between the stock and the small stem.

Networks designed for photographs of 224 px reduce an image four- or sixteenfold before their first block. Of a
photograph of 32 px, 8x8 or 2x2 positions would remain. The first rule that applies decides:

| condition | stem |
|---|---|
| `--stem stock` or `--stem small` is given (`small` is an error if the network has no small stem) | as given |
| images were enlarged from a smaller original: the stem reverses the enlargement (`digits`: 8x8 images, shown \
at 32 px, lose nothing) | **stock** |
| the network's input is larger than 64 px | **stock** |
| `*_cifar` networks, whose published stem is small already, and families outside the table below | **stock** |
| everything else: real images of at most 64 px | **small** |

Small stems by family (timm's modules); all later layers stay the same:

| family | small stem | loads as |
|---|---|---|
| resnet | first convolution 3x3 with stride 1 instead of 7x7 with stride 2 (a deep stem, which is 3x3 already, \
only changes its stride), no max-pooling | `<name>_small_stem` |
| efficientnet, mobilenetv3 | first convolution with stride 1 | `<name>_small_stem` |
| vision_transformer, deit, beit, eva | patches of an eighth of the image's side, at least 2 px | the timm name \
with `img_size`, `patch_size` |
| convnext | patches of 2 px; not the overlapping stems (`*_ols`) | the timm name with `patch_size` |

Importing `pruneboard.models` registers `<name>_small_stem` with timm. With pretrained weights, a 7x7 convolution that
became 3x3 is initialized randomly; all other layers keep their pretrained weights.
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
"""Largest side of a small image, in pixels."""


def choose_stem(name: str, *, image_size: int, original_size: int, enlarged: bool, stem: str | None) -> str:
    """Return `stock` or `small`, by the rule in this module's docstring.

    Args:
        name: model name, with or without a pretrained tag.
        image_size: side of the network's input images, in pixels.
        original_size: side of the stored images, in pixels; 0 if it varies or is not known.
        enlarged: whether the data set enlarges its images, whatever their size.
        stem: the user's `--stem`; None follows the rule.

    Raises:
        UsageError: `stem` is `small` and the network has no small stem, or the model name contradicts `stem`.
    """
    arch, _ = split_name(name)
    if arch.endswith(SMALL_STEM):
        _refuse_contradiction(name, stem)
        return "small"
    if stem == "small" and not has_small_stem(arch):
        raise UsageError(_no_rule(arch))
    if stem is not None:
        return stem
    real = not enlarged and not 0 < original_size < image_size
    return "small" if real and image_size <= LARGEST_SMALL and has_small_stem(arch) else "stock"


def has_small_stem(arch: str) -> bool:
    """Return whether this architecture has a small stem."""
    return timm.is_model(arch + SMALL_STEM) or _arguments_for(arch) is not None


def small_stem(name: str, image_size: int) -> tuple[str, dict[str, object]]:
    """Return the name and extra arguments with which `timm.create_model` builds `name` with a small stem."""
    arch, tag = split_name(name)
    arguments = _arguments_for(arch)
    if arguments is not None:
        return name, arguments(image_size)
    adapted = arch if arch.endswith(SMALL_STEM) else arch + SMALL_STEM
    return (f"{adapted}.{tag}" if tag else adapted), {}


def _refuse_contradiction(name: str, stem: str | None) -> None:
    if stem == "stock":
        raise UsageError(f"model {name} has the small stem by name: omit --stem stock or {SMALL_STEM}")


def _no_rule(arch: str) -> str:
    if arch.endswith("_cifar"):
        return f"the stem of {arch} is small already: omit --stem small"
    families = ", ".join([*SURGERY, *_ARGUMENTS])
    return f"no small stem is defined for {arch}, only for timm's families {families}: omit --stem small"


def _patches(image_size: int) -> dict[str, object]:
    """Return a patch size of an eighth of the side, or the next smaller one that divides the side."""
    largest = max(2, image_size // 8)
    tiling = [size for size in range(largest, 1, -1) if image_size % size == 0]
    return {"img_size": image_size, "patch_size": tiling[0] if tiling else largest}


def _two_pixels(_image_size: int) -> dict[str, object]:
    return {"patch_size": 2}


_ARGUMENTS: dict[str, Callable[[int], dict[str, object]]] = {
    "vision_transformer": _patches,
    "deit": _patches,
    "beit": _patches,
    "eva": _patches,
    "convnext": _two_pixels,
}
"""Families with a constructor argument for the patch size: image size -> arguments."""


def _arguments_for(arch: str) -> Callable[[int], dict[str, object]] | None:
    if arch.startswith("convnext") and "_ols" in arch:  # two overlapping convolutions, which ignore `patch_size`
        return None
    return next((rule for family, rule in _ARGUMENTS.items() if timm.models.is_model_in_modules(arch, [family])), None)


def _entry(name: str, shrink: Callable[[Any], None]) -> Callable[..., nn.Module]:
    """Return an entry point that builds `name` and then changes its first layers."""
    stock = timm.models.model_entrypoint(name)

    def entry(*args: object, **kwargs: object) -> nn.Module:
        if kwargs.get("features_only"):  # timm's table of reductions would be wrong here
            raise UsageError(f"{name}{SMALL_STEM} is a classifier: features_only is for stock stems")
        model: nn.Module = stock(*args, **kwargs)
        shrink(model)
        return model

    entry.__name__ = entry.__qualname__ = name + SMALL_STEM
    entry.__doc__ = f"timm's {name} with the small stem."
    return entry


def _register_all() -> None:
    """Register `<name>_small_stem` for every network of the families in `SURGERY`."""
    for family, shrink in SURGERY.items():
        for name in timm.list_models(module=family):
            entry = register(_entry(name, shrink))
            globals()[entry.__name__] = entry  # timm adds the name to this module's `__all__`


_register_all()
