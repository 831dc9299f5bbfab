"""The names a model goes by: timm's, and those pruneboard registers with timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import timm
from torch import nn

from pruneboard.errors import UnknownNameError
from pruneboard.models.standalone import SMALL_STEM

Entry = TypeVar("Entry", bound=Callable[..., nn.Module])


def register(entry: Entry) -> Entry:
    """Register an entry point with timm under its `__name__`; a name that is taken is left alone."""
    if not timm.is_model(entry.__name__):
        timm.models.register_model(entry)
    return entry


def model_names() -> list[str]:
    """Return every name that `--model` takes, without pretrained tags and adapted stems."""
    return [name for name in timm.list_models() if not name.endswith(SMALL_STEM)]


def split_name(name: str) -> tuple[str, str]:
    """Return the architecture and the pretrained tag of `name`: `resnet50.a1_in1k` -> `resnet50`, `a1_in1k`."""
    arch, _, tag = name.partition(".")
    return arch, tag


def check_name(name: str) -> None:
    """Refuse a name that timm cannot build, or a tag that the architecture does not have.

    Raises:
        UnknownNameError: with the nearest names.
    """
    arch, tag = split_name(name)
    if arch not in timm.list_models():
        raise UnknownNameError("model", name, model_names(), "any classifier of timm.list_models() will do")
    tags = pretrained_tags(arch)
    if "." in name and tag not in tags:
        raise UnknownNameError(f"pretrained tag of {arch}", tag, tags, f"leave out .{tag}")


def pretrained_tags(arch: str) -> list[str]:
    """Return the tags of `arch`: the sets of weights timm knows for it, as in `resnet50.a1_in1k`."""
    stock = arch.removesuffix(SMALL_STEM)
    tagged = timm.list_models(stock, include_tags=True)
    return [tag for other, tag in map(split_name, tagged) if other == stock and tag]


def weights_config(name: str) -> Any:
    """Return timm's description of the weights behind `name` (sizes, sources), or None where it has none."""
    arch, tag = split_name(name)
    stock = arch.removesuffix(SMALL_STEM)
    return timm.models.get_pretrained_cfg(f"{stock}.{tag}" if tag else stock)
