"""What will be built, decided before anything is: the name, the stem and the arguments of `timm.create_model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import timm
import torch
from torch import Tensor, nn

from pruneboard.errors import UsageError
from pruneboard.models import names, stems
from pruneboard.models.scope import prunable_layers, uses_batch_statistics

BUILD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a timm network raises when it is built or called with something it cannot take."""


@dataclass(frozen=True)
class ModelPlan:
    """One network, as pure data.

    After `import pruneboard.models`, `timm.create_model(plan.load_as, **plan.create_args)` gives the same network.

    Attributes:
        name: as the user gave it.
        load_as: the name timm knows the network by; another one than `name` where the stem was adapted.
        stem: `stock` or `small`.
        create_args: exactly what `timm.create_model` gets besides the name.
        batch_statistics: whether images that are normalized together influence each other.
    """

    name: str
    load_as: str
    stem: str
    create_args: dict[str, object] = field(default_factory=dict)
    batch_statistics: bool = False


@lru_cache(maxsize=64)  # a board asks for the same network hundreds of times
def plan_model(
    name: str, *, num_classes: int, image_size: int, original_size: int, enlarged: bool, stem: str | None
) -> ModelPlan:
    """Decide how `name` is built, by the rule of `pruneboard.models.stems`.

    Args:
        name: any timm classifier, with or without a pretrained tag, or one of pruneboard's own.
        num_classes: outputs of the classifier.
        image_size: side at which the network sees the images, in pixels.
        original_size: side of the images as stored, in pixels; 0 where it differs or is not known.
        enlarged: the data set enlarges its images, whatever their size.
        stem: `stock` or `small`; None follows the rule.

    Raises:
        UnknownNameError: no such model, or no such pretrained tag.
        UsageError: a stem that the model does not offer, a size that it cannot see, or no weights to prune.
    """
    names.check_name(name)
    chosen = stems.choose_stem(name, image_size=image_size, original_size=original_size, enlarged=enlarged, asked=stem)
    load_as, extra = stems.small_stem(name, image_size) if chosen == "small" else (name, {})
    arguments = {"num_classes": num_classes, **extra}
    size, network = _try_out(load_as, arguments, image_size)
    prunable_layers(network)  # refuses what no method could prune
    return ModelPlan(name, load_as, chosen, arguments | size, uses_batch_statistics(network))


def _try_out(load_as: str, arguments: dict[str, object], image_size: int) -> tuple[dict[str, object], nn.Module]:
    """Return `img_size` where the network must be told the size of its images, and the network tried."""
    problem = ""
    for extra in ({}, {"img_size": image_size}):
        tried = _attempt(load_as, {**arguments, **extra}, image_size)
        if isinstance(tried, nn.Module):
            return dict(extra), tried
        problem = problem or tried
    raise UsageError(_refusal(load_as, arguments, image_size, problem))


def _attempt(load_as: str, arguments: dict[str, object], image_size: int) -> nn.Module | str:
    """Return the network if it gives class scores for one image of this size, else why it does not.

    The meta device computes shapes and no numbers: milliseconds for a network of any size. Where it lacks an
    operation (older timm calls `.item()` while building) the network is tried on the CPU.
    """
    tried = _attempt_on("meta", load_as, arguments, image_size)
    return _attempt_on("cpu", load_as, arguments, image_size) if isinstance(tried, str) and "meta" in tried else tried


def _attempt_on(device: str, load_as: str, arguments: dict[str, object], image_size: int) -> nn.Module | str:
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
            network = cast("nn.Module", timm.create_model(load_as, **arguments).eval())
            scores = network(torch.empty(1, 3, image_size, image_size))
    except BUILD_ERRORS as error:
        return str(error).strip().partition("\n")[0] or "it does not fit its layers"
    if isinstance(scores, Tensor) and scores.shape == (1, arguments["num_classes"]):
        return network
    return "it gives no class scores"


def _refusal(load_as: str, arguments: dict[str, object], image_size: int, problem: str) -> str:
    config = names.weights_config(load_as)
    made_for = config.input_size[-1] if config else 224
    sized = {key: value for key, value in arguments.items() if key not in ("img_size", "patch_size")}
    if made_for == image_size or isinstance(_attempt(load_as, sized, made_for), str):
        return f"model {load_as} cannot be used as a classifier of images: {problem}; choose another model"
    return (
        f"model {load_as} cannot see images of {image_size} px ({problem}); "
        f"it was made for {made_for} px: use --image-size {made_for}"
    )
