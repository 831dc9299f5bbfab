"""Everything a pruner may import: the interface between a pruning method and the harness.

A **pruner** is a method's configuration, a frozen dataclass of hyper-parameters. A **gate** is the method's
state, a module in front of one prunable weight that turns the dense weight into the effective one. The harness
decides which weights are prunable, and trains, hardens, folds, counts and evaluates every method in the same way.
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

A step of the search consists of `before_step`, (forward, loss, backward) x forward passes, the optimizer's step and
`after_step`. At `harden_step` the harness calls `harden` once instead, after which no gate may change.

Whatever must survive a step is a buffer or a parameter of a gate: a run resumes from these alone. Random numbers
come from `Gate.draw` or `Progress.generator`, never from global state.

    gates       `Gate`, `Mask` (the ready-made gate), `Layer`
    pruners     `Pruner`, `MaskPruner`, `Traits`, `GateOptimizer`
    signals     `ScoringPruner` and `DenseGradientPruner`, the specialized base classes
    progress    `Progress`, the argument `at` of every hook

Tensors that the interface names have these shapes: images `[batch, 3, side, side]`, labels `[batch]`, logits
`[batch, classes]`; a mask, a score or a gradient has the shape of its weight.
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
