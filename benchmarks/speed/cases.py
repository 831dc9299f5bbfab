"""The timed cases: trainings built as in real runs, on random images, in states that real runs reach."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pruneboard import models, registry
from pruneboard.api import ScoringPruner
from pruneboard.data import Dataset, Split
from pruneboard.data.splits import Pixels
from pruneboard.draws import key
from pruneboard.experiment.listeners import NullListener
from pruneboard.models import ModelPlan
from pruneboard.spec import Recipe
from pruneboard.testing.trial import NoCheckpoints
from pruneboard.training import loop
from pruneboard.training.optim import schedule
from pruneboard.training.setup import TrainingOptions, build_training
from pruneboard.training.state import Training

STEPS = 100
"""Length of the training in steps; schedules are fractions of it."""

SEEDS = {name: key("speed", name) for name in ("order", "augmentation", "pruner")}


def images(count: int, side: int = 32, classes: int = 10) -> Dataset:
    """Return a data set of `count` random training images in memory, with small validation and test splits."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        stored = torch.randint(256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
        return Split.of_all(Pixels(stored), torch.arange(size) % classes)

    return Dataset(
        name="random",
        classes=tuple(map(str, range(classes))),
        image_size=side,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train=split(count),
        validation=split(classes),
        test=split(classes),
        sha256="",
        split_sha256="",
        synthetic_scale=False,
        original_size=side,
    )


def recipe(batch: int) -> Recipe:
    """Return the CIFAR recipe with a budget of `STEPS` steps for `10 * batch` images."""
    return Recipe(name="speed", epochs=STEPS // 10, batch_size=batch, lr=0.1, image_size=32, augment="crop-flip")


def plan(model: str, stem: str | None = None) -> ModelPlan:
    """Return the plan of `model` for ten classes at 32 px."""
    return models.plan_model(model, num_classes=10, image_size=32, original_size=32, enlarged=False, stem=stem)


def training(
    method: str,
    model: str,
    *,
    batch: int,
    sparsity: float = 0.9,
    track: Any = "prune",
    stem: str | None = None,
    **options: object,
) -> Training:
    """Return a training before its first step. The caller closes its engine."""
    pruner = registry.build(registry.find(method), None if method == "dense" else sparsity, options)
    network = models.build_model(plan(model, stem), init="random", seed=0)
    if track == "supermask":
        network = models.freeze(network, init="signed-constant", keep_ratio=1 - sparsity, seed=0)
    options = TrainingOptions(
        pruner=pruner,
        traits=pruner.traits(track),
        method=method,
        recipe=recipe(batch),
        seeds=SEEDS,
        micro_batch=batch,
        device=torch.device("cpu"),
        checkpointer=NoCheckpoints(),
    )
    return build_training(options, network, images(10 * batch), NullListener(), time.perf_counter())


def bring(run: Training, step: int) -> None:
    """Set the masks of `run` to their state before `step`; the weights stay at their initial values."""
    if isinstance(run.pruner, ScoringPruner):
        loop.prune_before_training(run)
    for earlier in range(min(step, run.budget.harden_step) + 1):
        if earlier < run.budget.harden_step:
            run.pruner.before_step(run.layers, run.progress(earlier))
    if step >= run.budget.harden_step:
        run.pruner.harden(run.layers, run.progress(run.budget.harden_step), lambda: 0.0)


def batch_of(run: Training) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the batches of the first step, augmented, normalized and on the device; both sides use them."""
    from pruneboard.data import train_batches

    return next(iter(train_batches(run.dataset, run.plan, epoch=0)))


class Bare:
    """A hand-written training loop with the same network, initial weights, SGD, schedule, clip and loss."""

    def __init__(self, model: str, batch: int) -> None:
        """Build the network and the optimizer: fused SGD, the fastest version in torch."""
        self.recipe = recipe(batch)
        self.network = models.build_model(plan(model), init="random", seed=0).train()
        named = list(self.network.named_parameters())
        groups = [
            {"params": [p for n, p in named if models.decays(n, p)], "weight_decay": self.recipe.weight_decay},
            {"params": [p for n, p in named if not models.decays(n, p)], "weight_decay": self.recipe.norm_weight_decay},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=self.recipe.lr, momentum=self.recipe.momentum, nesterov=self.recipe.nesterov, fused=True
        )

    def step(self, step: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * schedule(step, STEPS, 0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.network(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        return loss.detach()
