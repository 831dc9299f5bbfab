"""Where a pruner is tried: a small network on small images, trained by the very code that runs use.

16 optimizer steps of 16 images, on 1,568 prunable weights: a training takes a fraction of a second, so that every rule
can be tried on trainings of its own.
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
NAMES = ("stem", "spatial", "mix", "down", "head")

RECIPE = Recipe(name="contract", epochs=2, batch_size=16, lr=0.1, image_size=SIDE, augment="none", clip=0.5)
"""Dense gradients here have norms of 0.5 to 1.5, so they are clipped, jointly with those of gates."""


class Specimen(nn.Module):
    """A convolution, a depthwise and a pointwise one with a way past them, one with a stride, and a head."""

    def __init__(self, names: Sequence[str] = NAMES, *, small: bool = False) -> None:
        """Build it.

        Args:
            names: of its five prunable layers, in order.
            small: with a sixth layer of two weights, `small`, of which no usual sparsity leaves one by itself.
        """
        super().__init__()
        self._names = tuple(names)
        stem, spatial, mix, down, head = self._names
        self.add_module(stem, nn.Conv2d(3, 8, 3, padding=1, bias=False))
        self.first_norm = nn.BatchNorm2d(8)
        self.add_module(spatial, nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.add_module(mix, nn.Conv2d(8, 8, 1, bias=False))
        self.second_norm = nn.BatchNorm2d(8)
        self.small = nn.Conv2d(1, 2, 1, bias=False) if small else None
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


def specimen(names: Sequence[str] = NAMES, *, small: bool = False, seed: int = 0) -> Specimen:
    """Return one with the initial weights of `seed`; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "contract weights"))
        return Specimen(names, small=small)


@cache
def images() -> Dataset:
    """Return 128 images to train on, 32 to validate and 32 to test: a pattern per class, and noise."""
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
class KeepsAll(MaskPruner):
    """Prunes nothing: what dense training is."""

    tracks: ClassVar[frozenset[Track]] = frozenset({"prune", "supermask"})


@dataclass(frozen=True)
class Nowhere(Checkpointer):
    """Saves nothing."""

    folder: Path = Path()
    every: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)

    def save(self, engine: Engine, watch: MaskTracker, state: TrainState) -> None:
        """Do nothing."""

    def restore(self, engine: Engine, watch: MaskTracker) -> TrainState | None:
        """Return that there is nothing."""


@dataclass(frozen=True)
class Trained:
    """A training that is over.

    Attributes:
        run: with its gates as they are in the end.
        state: the folded network.
    """

    run: Training
    state: Mapping[str, Tensor]

    @cached_property
    def counts(self) -> Sequence[LayerCount]:
        """The prunable layers of it; counted when asked, so that a false report fails what is about counts only.

        Raises:
            AuditError: a position that the gates say is pruned holds a number.
        """
        return audit.count_layers(self.run.layers, self.state)

    @property
    def kept(self) -> int:
        """Positions that the gates keep."""
        return sum(count.kept for count in self.counts)


@dataclass(frozen=True)
class Bench:
    """One way to train a network with a pruner.

    Attributes:
        pruner: the method.
        track: `prune` or `supermask`.
        seed: of weights, order and draws.
        names: of the prunable layers.
        small: whether the network has a layer of two weights.
        zero: ZeRO stage.
        precision: `fp32` or `bf16`.
        device: where.
        channels_last: whether tensors of four dimensions are laid out that way.
        keeper: saves the run.
        recipe: fields of the recipe that are other ones.
    """

    pruner: Pruner[Any]
    track: Track
    seed: int = 0
    names: tuple[str, ...] = NAMES
    small: bool = False
    zero: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    channels_last: bool = False
    checkpointer: Checkpointer = field(default_factory=Nowhere)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """Return the plain network with its initial weights: frozen on the supermask track."""
        model = specimen(self.names, small=self.small, seed=self.seed)
        if self.track == "prune":
            return model
        keep_ratio = 1 - self.pruner.sparsity
        return models.freeze(model, init="signed-constant", keep_ratio=keep_ratio, seed=self.seed)

    def ready(self) -> Training:
        """Return the training before its first step; close its engine in the end."""
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
        run = build_training(options, self.network(), images(), NullListener(), time.perf_counter())
        if self.channels_last:
            run.engine.model.to(memory_format=torch.channels_last)
        return run

    def trained(self) -> Trained:
        """Train to the end, from a checkpoint where the keeper has one, and fold."""
        return finish(self.ready())


def finish(run: Training) -> Trained:
    """Train what is left, and fold; the caller's random state stays as it is."""
    device = run.engine.device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loop.resume_from_checkpoint(run, {"world_size": World.current().size})
            loop.fit(run)
        return Trained(run, gates.fold(run.engine.model, run.layers))
    finally:
        run.engine.close()
