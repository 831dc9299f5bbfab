"""Forgets the decorator, and keeps state on itself."""

from __future__ import annotations

from collections.abc import Sequence

from pruneboard.api import Layer, Mask, MaskPruner, Progress


class Thawed(MaskPruner):
    """Counts its steps on itself, where no checkpoint finds them."""

    calls = 0

    def before_step(self, layers: Sequence[Layer[Mask]], at: Progress) -> None:
        """Count."""
        del layers, at
        self.calls += 1
