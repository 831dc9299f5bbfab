"""Model names: those of timm, and those that pruneboard registers with timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import timm
from torch import nn

from pruneboard.errors import UnknownNameError
from pruneboard.models.standalone import SMALL_STEM

Entry = TypeVar("Entry", bound=Callable[..., nn.Module])


def register(entry: Entry) -> Entry:
    """Register an entry point with timm under its `__name__`, unless timm already has a model of this name."""
    if not timm.is_model(entry.__name__):
        timm.models.register_model(entry)
    return entry


def model_names() -> list[str]:
    """Return all names that `--model` accepts, without pretrained tags and without names of small stems."""
    return [name for name in timm.list_models() if not name.endswith(SMALL_STEM)]


def split_name(name: str) -> tuple[str, str]:
    """Return the architecture and the pretrained tag of `name`: `resnet50.a1_in1k` -> `resnet50`, `a1_in1k`."""
    arch, _, tag = name.partition(".")
    return arch, tag


def check_name(name: str) -> None:
    """Check that timm has this model, and its pretrained tag if there is one.

    Raises:
        UnknownNameError: it has not; the message suggests similar names.
    """
    arch, tag = split_name(name)
    if arch not in timm.list_models():
        raise UnknownNameError("model", name, model_names(), "any classifier in timm.list_models() can be used")
    tags = pretrained_tags(arch)
    if "." in name and tag not in tags:
        raise UnknownNameError(f"pretrained tag of {arch}", tag, tags, f"leave out .{tag}")


def pretrained_tags(arch: str) -> list[str]:
    """Return the pretrained tags of `arch`, such as `a1_in1k` of `resnet50.a1_in1k`."""
    stock = arch.removesuffix(SMALL_STEM)
    tagged = timm.list_models(stock, include_tags=True)
    return [tag for other, tag in map(split_name, tagged) if other == stock and tag]


def weights_config(name: str) -> Any:
    """Return timm's configuration of the pretrained weights of `name` (input size, source), or None."""
    arch, tag = split_name(name)
    stock = arch.removesuffix(SMALL_STEM)
    return timm.models.get_pretrained_cfg(f"{stock}.{tag}" if tag else stock)
