"""Would be a complete method, under a name that is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pruneboard.api import MaskPruner


@final
@dataclass(frozen=True, kw_only=True)
class GMP(MaskPruner):
    """Prunes nothing, in the name of a method that does."""
