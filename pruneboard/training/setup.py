"""Build the training of a run: the gates of a method on a network, the engine, and the data plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pruneboard import models
from pruneboard.api import Pruner, Traits
from pruneboard.data import BatchPlan, Dataset
from pruneboard.errors import AuditError
from pruneboard.processes import phases
from pruneboard.spec import Recipe
from pruneboard.training import gates, harness_guard, optim, process_state
from pruneboard.training.checkpoint import Checkpointer
from pruneboard.training.compiling import CompiledNetwork
from pruneboard.training.engine import Engine
from pruneboard.training.state import InitialNetwork, Listener, Training, plan_budget


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that a training needs besides a network and images.

    Attributes:
        pruner: the method.
        traits: its declared traits, as far as the harness acts on them.
        method: name of the method in messages.
        recipe: the training recipe, the same for every method.
        seeds: integers with the keys `order`, `augmentation` and `pruner`.
        micro_batch: images per forward pass on this process.
        device: device of this process.
        checkpointer: saves and restores the run.
        zero: ZeRO stage.
        precision: `fp32` or `bf16`.
    """

    pruner: Pruner[Any]
    traits: Traits
    method: str
    recipe: Recipe
    seeds: Mapping[str, int]
    micro_batch: int
    device: torch.device
    checkpointer: Checkpointer
    zero: int = 0
    precision: str = "fp32"


def build_training(
    options: TrainingOptions,
    model: nn.Module,
    dataset: Dataset,
    listener: Listener,
    start_time: float,
    compiled: str | None = None,
) -> Training:
    """Attach the gates of a method to `model` and create the engine.

    Args:
        options: method, recipe and engine.
        model: a plain network with its initial weights; without a trainable parameter on the supermask track.
        dataset: the images.
        listener: observes the run.
        start_time: start time of this attempt (`time.perf_counter`).
        compiled: name of the network in messages of the compiler; None to leave it uncompiled.
    """
    pruner, recipe, traits = options.pruner, options.recipe, options.traits
    initial = InitialNetwork.of(model, frozen=not any(parameter.requires_grad for parameter in model.parameters()))
    gates.unsqueeze_scalars(model)
    draw_key = gates.DrawKey(options.seeds["pruner"])
    budget = plan_budget(recipe, dataset, traits.harden_at)
    with _changes_nothing(options.method, model):
        layers = gates.attach(pruner, models.gated_layers(model), draw_key, hits_target=traits.hits_target)
        rule = pruner.gate_optimizer(budget.harden_step)
    groups = optim.parameter_groups(model, gates.gate_parameters(layers), recipe, rule)
    phases.report("starting the engine")
    engine = Engine(
        model,
        groups,
        device=options.device,
        micro_batch=options.micro_batch,
        clip=recipe.clip,
        zero=options.zero,
        precision=options.precision,
        compiled=CompiledNetwork(model, compiled) if compiled else None,
    )
    plan = BatchPlan(
        batch_size=recipe.batch_size,
        micro_batch=options.micro_batch,
        rank=engine.rank,
        world=engine.world,
        augment=recipe.augment,
        order_seed=options.seeds["order"],
        augment_seed=options.seeds["augmentation"],
        device=options.device,
    )
    return Training(
        engine=engine,
        pruner=pruner,
        layers=layers,
        dataset=dataset,
        plan=plan,
        recipe=recipe,
        budget=budget,
        draw_key=draw_key,
        forward_passes=traits.forward_passes,
        split_batch=traits.split_batch,
        method=options.method,
        listener=listener,
        initial=initial,
        checkpointer=options.checkpointer,
        start_time=start_time,
        max_validations=traits.max_validations,
        writes_weights_at_harden=traits.writes_weights_at_harden,
    )


@contextmanager
def _changes_nothing(method: str, model: nn.Module) -> Iterator[None]:
    """Raise AuditError if the method's code in the block changes the harness, the process or a weight of `model`."""
    weights = dict(model.named_parameters())
    before, bits = process_state.settings(), models.state_sha256(weights)
    with harness_guard.harness_restored() as replaced, process_state.settings_restored():
        yield
        change = process_state.change(before)
    if replaced:
        change = f"replaced {replaced[0]}"
    elif change is None and models.state_sha256(weights) != bits:
        change = "changed the initial weights"
    if change is not None:
        raise AuditError(
            f"method {method}: gate or gate_optimizer {change}: a method may not change what is not its own"
        )
