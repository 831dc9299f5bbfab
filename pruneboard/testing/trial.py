"""Trial trainings for the checks: a small network on small images, trained by the same code as real runs.

A trial takes 16 optimizer steps of 16 images, with 1,568 prunable weights. This takes a fraction of a second, so that
every check can afford trainings of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from pruneboard import models
from pruneboard.api import MaskPruner, Pruner, Track
from pruneboard.data import Dataset, Split
from pruneboard.data.splits import Pixels
from pruneboard.draws import key
from pruneboard.experiment import audit
from pruneboard.experiment.audit import LayerCount
from pruneboard.experiment.listeners import NullListener
from pruneboard.processes.world import World
from pruneboard.spec import Recipe
from pruneboard.training import gates, loop
from pruneboard.training.checkpoint import Checkpointer, TrainState
from pruneboard.training.engine import Engine
from pruneboard.training.mask_stats import MaskTracker
from pruneboard.training.setup import TrainingOptions, build_training
from pruneboard.training.state import Training

SIDE, CLASSES = 8, 4
LAYER_NAMES = ("stem", "spatial", "mix", "down", "head")

RECIPE = Recipe(name="contract", epochs=2, batch_size=16, lr=0.1, image_size=SIDE, augment="none", clip=0.5)
"""Dense gradients have norms of 0.5 to 1.5 here, so clipping is active; it covers the gradients of gates too."""


class SmallNetwork(nn.Module):
    """A convolution, a depthwise and a pointwise one with a skip connection, a strided one, and a linear head."""

    def __init__(self, names: Sequence[str] = LAYER_NAMES, *, tiny_layer: bool = False) -> None:
        """Build the network.

        Args:
            names: names of its five prunable layers, in order.
            tiny_layer: whether to add a sixth layer, `small`, with two weights; at usual sparsities, its share of the
                kept weights rounds to none.
        """
        super().__init__()
        self._names = tuple(names)
        stem, spatial, mix, down, head = self._names
        self.add_module(stem, nn.Conv2d(3, 8, 3, padding=1, bias=False))
        self.first_norm = nn.BatchNorm2d(8)
        self.add_module(spatial, nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.add_module(mix, nn.Conv2d(8, 8, 1, bias=False))
        self.second_norm = nn.BatchNorm2d(8)
        self.small = nn.Conv2d(1, 2, 1, bias=False) if tiny_layer else None
        self.add_module(down, nn.Conv2d(8, 16, 3, stride=2, padding=1))
        self.add_module(head, nn.Linear(16, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, 4] for images [batch, 3, side, side]."""
        stem, spatial, mix, down, head = (self.get_submodule(name) for name in self._names)
        x = self.first_norm(stem(images)).relu()
        x = x + self.second_norm(mix(spatial(x))).relu()
        if self.small is not None:
            x = x + self.small(x.mean(1, keepdim=True)).sum(1, keepdim=True)
        logits: Tensor = head(down(x).relu().mean((2, 3)))
        return logits


def small_network(names: Sequence[str] = LAYER_NAMES, *, tiny_layer: bool = False, seed: int = 0) -> SmallNetwork:
    """Return a network with the initial weights of `seed`; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "contract weights"))
        return SmallNetwork(names, tiny_layer=tiny_layer)


@cache
def small_dataset() -> Dataset:
    """Return 128 training, 32 validation and 32 test images: one pattern per class, plus noise."""
    generator = torch.Generator().manual_seed(key("contract images"))
    patterns = torch.rand(CLASSES, 3, SIDE, SIDE, generator=generator)
    train_part, validation, test = (_split(patterns, count, generator) for count in (128, 32, 32))
    return Dataset(
        name="contract",
        classes=tuple(str(label) for label in range(CLASSES)),
        image_size=SIDE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train=train_part,
        validation=validation,
        test=test,
        sha256="",
        split_sha256="",
        synthetic_scale=False,
        original_size=SIDE,
    )


def _split(patterns: Tensor, count: int, generator: torch.Generator) -> Split:
    labels = torch.arange(count) % CLASSES
    noise = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    stored = (patterns[labels] * 128 + noise * 127).to(torch.uint8)
    return Split.of_all(Pixels(stored), labels)


@final
@dataclass(frozen=True, kw_only=True)
class KeepAll(MaskPruner):
    """Prunes nothing: the reference for dense training."""

    tracks: ClassVar[frozenset[Track]] = frozenset({"prune", "supermask"})


@dataclass(frozen=True)
class NoCheckpoints(Checkpointer):
    """Saves nothing."""

    folder: Path = Path()
    every: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)

    def save(self, engine: Engine, watch: MaskTracker, state: TrainState) -> None:
        """Do nothing."""

    def restore(self, engine: Engine, watch: MaskTracker) -> TrainState | None:
        """Return None: there is no checkpoint."""


@dataclass(frozen=True)
class TrialResult:
    """A finished trial training.

    Attributes:
        run: the training, with its gates in their final state.
        state: state dict of the folded network.
    """

    run: Training
    state: Mapping[str, Tensor]

    @cached_property
    def counts(self) -> Sequence[LayerCount]:
        """Counts per prunable layer. Computed on access, so that a false report fails only checks that use counts.

        Raises:
            AuditError: a position that the gates report as pruned is not zero.
        """
        return audit.count_layers(self.run.layers, self.state)

    @property
    def kept(self) -> int:
        """Number of positions that the gates keep."""
        return sum(count.kept for count in self.counts)


@dataclass(frozen=True)
class Trial:
    """One way to train the small network with a pruner.

    Attributes:
        pruner: the method.
        track: `prune` or `supermask`.
        seed: seed of the weights, the image order and the method's draws.
        names: names of the prunable layers.
        tiny_layer: whether the network has an additional layer with two weights.
        zero: ZeRO stage.
        precision: `fp32` or `bf16`.
        device: torch device to train on.
        channels_last: whether 4-d tensors use the channels-last memory format.
        checkpointer: saves and restores the training.
        recipe: recipe fields that differ from `RECIPE`.
    """

    pruner: Pruner[Any]
    track: Track
    seed: int = 0
    names: tuple[str, ...] = LAYER_NAMES
    tiny_layer: bool = False
    zero: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    channels_last: bool = False
    checkpointer: Checkpointer = field(default_factory=NoCheckpoints)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """Return the plain network with its initial weights, frozen on the supermask track."""
        model = small_network(self.names, tiny_layer=self.tiny_layer, seed=self.seed)
        if self.track == "prune":
            return model
        keep_ratio = 1 - self.pruner.sparsity
        return models.freeze(model, init="signed-constant", keep_ratio=keep_ratio, seed=self.seed)

    def build(self) -> Training:
        """Return the training before its first step; the caller closes its engine."""
        recipe = dataclasses.replace(RECIPE, **self.recipe)
        options = TrainingOptions(
            pruner=self.pruner,
            traits=self.pruner.traits(self.track),
            method=type(self.pruner).__name__,
            recipe=recipe,
            seeds={name: key(self.seed, "contract", name) for name in ("order", "augmentation", "pruner")},
            micro_batch=recipe.micro_batch,
            device=torch.device(self.device),
            checkpointer=self.checkpointer,
            zero=self.zero,
            precision=self.precision,
        )
        run = build_training(options, self.network(), small_dataset(), NullListener(), time.perf_counter())
        if self.channels_last:
            run.engine.model.to(memory_format=torch.channels_last)
        return run

    def train(self) -> TrialResult:
        """Train to the end, starting from the checkpoint if there is one, and fold."""
        return finish(self.build())


def finish(run: Training) -> TrialResult:
    """Run the remaining steps, fold the network and close the engine; the caller's random state does not change."""
    device = run.engine.device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loop.resume_from_checkpoint(run, {"world_size": World.current().size})
            loop.fit(run)
        return TrialResult(run, gates.fold(run.engine.model, run.layers))
    finally:
        run.engine.close()
