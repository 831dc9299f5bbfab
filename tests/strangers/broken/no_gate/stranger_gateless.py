"""Leaves out `gate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from pruneboard.api import Pruner


@final
@dataclass(frozen=True, kw_only=True)
class Gateless(Pruner[Any]):
    """Has an option, and nothing to put in front of a weight."""

    strength: float = 1.0
