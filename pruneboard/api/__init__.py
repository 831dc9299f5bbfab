"""All that a pruner may import: the interface between a method and the harness.

A **pruner** is a recipe, a frozen dataclass of hyper-parameters. A **gate** is its state: a module placed
in front of each prunable weight, which turns the dense weight into the effective one. The harness decides
which weights are prunable, trains, hardens, folds, counts and evaluates, the same way for every method.
The shortest complete pruner::

    @final
    @dataclass(frozen=True, kw_only=True)
    class Magnitude(MaskPruner):
        tracks = frozenset({"prune"})

        def traits(self, track):
            return Traits(harden_at=0.5)

        def before_step(self, layers, at):
            if at.step == at.harden_step:
                set_masks(layers, top_k([layer.dense.abs() for layer in layers], budget(layers)))

and, in its distribution's `pyproject.toml`::

    [project.entry-points."pruneboard.pruners"]
    magnitude = "their_package:Magnitude"

The order of a step is: `before_step`, (forward, loss, backward) x forward passes, the optimizer,
`after_step`. At `harden_step` the harness calls `harden` instead, after which no gate may change.
Every quantity of a method that survives a step lives in its gates, as a buffer or a parameter.
"""

from __future__ import annotations

from pruneboard.api.gates import Gate, Layer, Mask
from pruneboard.api.progress import Durable, Progress
from pruneboard.api.pruners import GateOptimizer, MaskPruner, Pruner, Track, Traits, Validate
from pruneboard.api.signals import Batch, DenseGradientPruner, ModelView, ScoringPruner

__all__ = [
    "Batch",
    "DenseGradientPruner",
    "Durable",
    "Gate",
    "GateOptimizer",
    "Layer",
    "Mask",
    "MaskPruner",
    "ModelView",
    "Progress",
    "Pruner",
    "ScoringPruner",
    "Track",
    "Traits",
    "Validate",
]
