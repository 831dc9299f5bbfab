"""Files with initial weights: how they are read, and in which tensors a file and a network differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pruneboard.errors import UsageError

SHOWN = 3
"""Number of tensors listed in an error message."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        UsageError: it cannot be read, or is not a safetensors file.
    """
    if path.exists() and not path.is_file():  # a pipe would block forever
        raise UsageError(f"cannot read the initial weights {path}: it is not a regular file")
    try:
        return cast("dict[str, Tensor]", load_file(path))
    except OSError as error:
        raise UsageError(f"cannot read the initial weights {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from None


@dataclass(frozen=True)
class Misfit:
    """The tensors in which a file and a network differ.

    Attributes:
        missing: names that only the network has.
        surplus: names that only the file has.
        reshaped: name -> shape in the file and shape in the network, where they differ.
        retyped: name -> the two types, where one holds integers and the other fractions.
        head: names of the classifier's tensors.
    """

    missing: list[str]
    surplus: list[str]
    reshaped: dict[str, tuple[list[int], list[int]]]
    retyped: dict[str, tuple[torch.dtype, torch.dtype]]
    head: frozenset[str]

    @property
    def names(self) -> set[str]:
        """All names that differ."""
        return {*self.missing, *self.surplus, *self.reshaped, *self.retyped}

    def __str__(self) -> str:
        """List a few of them by kind, with the number of all."""
        kinds = {
            "of another shape": [f"{n} {a} in the file, {b} in the model" for n, (a, b) in self.reshaped.items()],
            "of another type": [f"{n} {a} in the file, {b} in the model" for n, (a, b) in self.retyped.items()],
            "missing in the file": self.missing,
            "not in the model": self.surplus,
        }
        return "; ".join(f"{count_tensors(len(found))} {what}: {few(found)}" for what, found in kinds.items() if found)


def find_misfit(model: nn.Module, state: Mapping[str, Tensor]) -> Misfit:
    """Compare the names, shapes and kinds of numbers of a file's tensors with those of a network."""
    expected = model.state_dict()
    both = [(name, state[name], tensor) for name, tensor in expected.items() if name in state]
    return Misfit(
        missing=[name for name in expected if name not in state],
        surplus=[name for name in state if name not in expected],
        reshaped={n: (list(a.shape), list(b.shape)) for n, a, b in both if a.shape != b.shape},
        retyped={n: (a.dtype, b.dtype) for n, a, b in both if a.is_floating_point() != b.is_floating_point()},
        head=_head(model),
    )


def _head(model: nn.Module) -> frozenset[str]:
    """Return the names of the classifier's tensors; none if the network does not say which module it is."""
    head: Any = cast("Any", model).get_classifier() if hasattr(model, "get_classifier") else None
    heads = {id(module) for module in (head if isinstance(head, tuple) else (head,))}
    return frozenset(
        f"{name}.{key}" for name, module in model.named_modules() if id(module) in heads for key in module.state_dict()
    )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return every tensor with NaN or infinite values, and how many of its values these are."""
    return [
        f"{name} ({int((~tensor.isfinite()).sum())} of {tensor.numel()} values)"
        for name, tensor in tensors.items()
        if not bool(tensor.isfinite().all())
    ]


def count_tensors(number: int) -> str:
    """Return a number of tensors in words, such as `1 tensor`."""
    return "1 tensor" if number == 1 else f"{number} tensors"


def few(found: list[str]) -> str:
    """Return the first items of a list, and how many more there are."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{', '.join(found[:SHOWN])}{more}"
