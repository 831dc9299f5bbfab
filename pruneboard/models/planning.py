"""Plans a network before it is built: its name, its stem, and the arguments of `timm.create_model`."""

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
"""Errors that timm networks raise if they are built or called with unsuitable arguments."""


@dataclass(frozen=True)
class ModelPlan:
    """Everything needed to build one network, as plain data.

    After `import pruneboard.models`, `timm.create_model(plan.load_as, **plan.create_args)` returns the same network.

    Attributes:
        name: model name as given by the user.
        load_as: name of the network in timm; differs from `name` if the stem was adapted.
        stem: `stock` or `small`.
        create_args: all arguments of `timm.create_model` except the name.
        batch_statistics: whether a layer normalizes an image by the others of its batch.
    """

    name: str
    load_as: str
    stem: str
    create_args: dict[str, object] = field(default_factory=dict)
    batch_statistics: bool = False


@lru_cache(maxsize=64)  # a board plans the same network hundreds of times
def plan_model(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    original_size: int,
    enlarged: bool,
    stem: str | None,
    limit: int | None = None,
) -> ModelPlan:
    """Plan how to build `name`; the rule of `pruneboard.models.stems` chooses its stem.

    Args:
        name: any timm classifier, with or without a pretrained tag, or one of pruneboard's own.
        num_classes: number of outputs of the classifier.
        image_size: side of the network's input images, in pixels.
        original_size: side of the stored images, in pixels; 0 if it varies or is not known.
        enlarged: whether the data set enlarges its images, whatever their size.
        stem: `stock` or `small`; None follows the rule.
        limit: most numbers that the network may have if its values have to be computed to try it out; None for any.

    Raises:
        UnknownNameError: there is no such model, or no such pretrained tag.
        UsageError: the model does not have this stem, does not accept this image size, or has no prunable weights.
    """
    names.check_name(name)
    chosen = stems.choose_stem(name, image_size=image_size, original_size=original_size, enlarged=enlarged, stem=stem)
    load_as, extra = stems.small_stem(name, image_size) if chosen == "small" else (name, {})
    arguments = {"num_classes": num_classes, **extra}
    size, network = _try_out(load_as, arguments, image_size, limit)
    prunable_layers(network)  # raises if there is nothing to prune
    return ModelPlan(name, load_as, chosen, arguments | size, uses_batch_statistics(network))


def meta_model(plan: ModelPlan) -> nn.Module:
    """Build the network of `plan` on the meta device: it has names and shapes but no values, and takes no memory.

    Raises:
        UsageError: an operation of its constructor does not exist there, as in older versions of timm.
    """
    try:
        return _create("meta", plan.load_as, plan.create_args)
    except BUILD_ERRORS as error:
        raise UsageError(f"{plan.load_as} cannot be built without its values: {_first_line(error)}") from None


def _try_out(
    load_as: str, arguments: dict[str, object], image_size: int, limit: int | None
) -> tuple[dict[str, object], nn.Module]:
    """Return `img_size` as an argument if the network needs it, and the network on trial."""
    problem = ""
    for extra in ({}, {"img_size": image_size}):
        tried = _attempt(load_as, {**arguments, **extra}, image_size, limit)
        if isinstance(tried, nn.Module):
            return dict(extra), tried
        problem = problem or tried
    raise UsageError(_refusal(load_as, arguments, image_size, limit, problem))


def _attempt(load_as: str, arguments: dict[str, object], image_size: int, limit: int | None) -> nn.Module | str:
    """Return the network if it returns class scores for one image of this size, else the reason.

    The meta device computes shapes but no values, which takes milliseconds for a network of any size. If an operation
    does not exist there (older versions of timm call `.item()` in constructors), the network is tried on the CPU.
    """
    tried = _attempt_on("meta", load_as, arguments, image_size)
    if isinstance(tried, str) and "meta" in tried and _is_at_most(limit, load_as, arguments):
        return _attempt_on("cpu", load_as, arguments, image_size)
    return tried


def _is_at_most(limit: int | None, load_as: str, arguments: dict[str, object]) -> bool:
    """Return whether a network has at most `limit` numbers; False if that is not known without building it."""
    if limit is None:
        return True
    try:
        network = _create("meta", load_as, arguments)
    except BUILD_ERRORS:
        return False
    return sum(parameter.numel() for parameter in network.parameters()) <= limit


def _create(device: str, load_as: str, arguments: dict[str, object]) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
        return cast("nn.Module", timm.create_model(load_as, **arguments).eval())


def _attempt_on(device: str, load_as: str, arguments: dict[str, object], image_size: int) -> nn.Module | str:
    try:
        network = _create(device, load_as, arguments)
        with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
            scores = network(torch.empty(1, 3, image_size, image_size))
    except BUILD_ERRORS as error:
        return _first_line(error)
    if isinstance(scores, Tensor) and scores.shape == (1, arguments["num_classes"]):
        return network
    return "it returns no class scores"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "its layers do not fit"


def _refusal(load_as: str, arguments: dict[str, object], image_size: int, limit: int | None, problem: str) -> str:
    config = names.weights_config(load_as)
    designed_for = config.input_size[-1] if config else 224
    sized = {key: value for key, value in arguments.items() if key not in ("img_size", "patch_size")}
    if designed_for == image_size or isinstance(_attempt(load_as, sized, designed_for, limit), str):
        return f"model {load_as} cannot be used as an image classifier: {problem}; choose another model"
    return (
        f"model {load_as} does not accept images of {image_size} px ({problem}); "
        f"it was designed for {designed_for} px: use --image-size {designed_for}"
    )
