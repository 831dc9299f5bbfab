"""Offers a function where a class is asked for."""

from __future__ import annotations

from typing import Any


def prune(model: Any, sparsity: float) -> Any:
    """Return the model, pruned as other libraries do it."""
    del sparsity
    return model
