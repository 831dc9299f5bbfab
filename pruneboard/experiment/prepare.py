"""Resolve a spec to a job, or refuse it, before anything is trained or written."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruneboard import registry
from pruneboard.api import Pruner, Traits
from pruneboard.data import SMALL_IMAGE, Dataset, first_image_side, open_dataset, steps_per_epoch
from pruneboard.draws import key
from pruneboard.errors import PluginError, UsageError, described
from pruneboard.experiment.identity import RunIdentity
from pruneboard.models import ModelPlan, check_init, plan_model
from pruneboard.processes.world import World
from pruneboard.records import store
from pruneboard.spec import SUPERMASK_INITS, Recipe, RunSpec, default_recipe, load_recipe, resolve_init
from pruneboard.training import compiling
from pruneboard.training.state import Budget, plan_budget

SEEDS = ("init", "split", "order", "augmentation", "pruner")


@dataclass(frozen=True)
class Job:
    """A spec with everything resolved that can be resolved before training; every process of a run receives one."""

    spec: RunSpec
    track: str
    recipe: Recipe
    info: registry.PrunerInfo
    init: str
    seeds: Mapping[str, int]
    plan: ModelPlan
    traits: Traits
    base_record: Mapping[str, Any]
    """The blocks of the record that do not depend on how the run ends."""
    folder: Path

    @property
    def hash(self) -> str:
        """The content hash, over everything that decides the result."""
        return str(self.base_record["hash"])


def prepare(spec: RunSpec) -> tuple[Job, Dataset]:
    """Resolve a spec: method, recipe, data, model, content hash and folder. Trains nothing and writes nothing.

    Raises:
        UsageError: something does not exist, does not fit together, or cannot be read or written.
    """
    spec = spec.with_absolute_paths()
    info = registry.find(spec.method)
    pruner = registry.build(info, spec.sparsity, spec.options)
    track = choose_track(pruner, spec)
    init = resolve_init(spec.init, track)
    check_ablation(spec, track)
    recipe = resolve_recipe(spec)
    if World.current().is_main:  # only rank 0 writes
        store.check_writable(spec.results)
    device = device_of(spec)
    if spec.compile:
        compiling.check_compiler(device)
    check_tensorboard(spec)
    seeds = {name: key(spec.seed, name) for name in SEEDS}
    dataset = open_data(spec, recipe, seeds)
    plan = plan_network(spec, dataset)
    check_initial_weights(spec, init, plan, dataset)
    check_world(spec, recipe, plan)
    traits = effective_traits(pruner, track, info)
    check_schedule(spec, recipe, traits, plan_budget(recipe, dataset, traits.harden_at), track)
    check_split_batch(spec, traits, micro_batch(recipe, plan, max(spec.procs, World.current().size)))
    record = RunIdentity(spec, track, recipe, info, pruner, traits, init, seeds, dataset, plan).blocks()
    folder = store.run_folder(
        spec.results,
        dataset=dataset.name,
        model=spec.model,
        track=track,
        method=spec.method,
        sparsity=spec.sparsity,
        seed=spec.seed,
        hash=record["hash"],
    )
    return Job(spec, track, recipe, info, init, seeds, plan, traits, record, folder), dataset


def choose_track(pruner: Pruner[Any], spec: RunSpec) -> str:
    """Return the requested track; without a request, the method's only track, else `prune`."""
    tracks = sorted(pruner.tracks)
    track = spec.track or (tracks[0] if len(tracks) == 1 else "prune")
    if track not in tracks:
        raise UsageError(f"method {spec.method!r} does not run on track {track!r}; it runs on {', '.join(tracks)}")
    return track


def resolve_recipe(spec: RunSpec) -> Recipe:
    """Return the recipe that the spec names, else the default of its data set, with the spec's overrides."""
    name = spec.recipe or _recipe_for(spec)
    return load_recipe(name, spec.overrides)


def _recipe_for(spec: RunSpec) -> str:
    if spec.dataset != "folder" or spec.data_dir is None:
        return default_recipe(spec.dataset)
    return default_recipe("folder" if first_image_side(spec.data_dir) <= SMALL_IMAGE else "imagenet")


def open_data(spec: RunSpec, recipe: Recipe, seeds: Mapping[str, int]) -> Dataset:
    """Open the data set of a spec."""
    dataset = open_dataset(
        spec.dataset,
        data_dir=spec.data_dir,
        download=spec.download,
        image_size=recipe.image_size,
        val_fraction=recipe.val_fraction,
        limit_train=spec.limit_train,
        split_seed=seeds["split"],
        check_images=spec.check_images,
    )
    steps_per_epoch(dataset, recipe.batch_size)
    return dataset


def plan_network(spec: RunSpec, dataset: Dataset) -> ModelPlan:
    """Decide how timm builds the network of a spec."""
    return plan_model(
        spec.model,
        num_classes=len(dataset.classes),
        image_size=dataset.image_size,
        original_size=dataset.original_size,
        enlarged=dataset.synthetic_scale,
        stem=spec.stem,
    )


def check_initial_weights(spec: RunSpec, init: str, plan: ModelPlan, dataset: Dataset) -> None:
    """Refuse initial weights that do not exist, do not fit the network or are not finite, and name the flag that helps.

    Pretrained weights are checked as far as is possible without a download; `lifecycle.run` does the rest.
    """

    def other_stems() -> dict[str, ModelPlan]:
        flags = {f"--stem {stem}": stem for stem in ("stock", "small") if stem != plan.stem}
        plans = {}
        for flag, stem in flags.items():
            with contextlib.suppress(UsageError):  # this network has no such stem
                plans[flag] = plan_network(dataclasses.replace(spec, stem=stem), dataset)
        return plans

    if init not in SUPERMASK_INITS:
        check_init(plan, init, other_stems)


def check_ablation(spec: RunSpec, track: str) -> None:
    """Refuse an ablation of trained weights: they were trained together with the mask that it would replace."""
    if spec.ablation and track != "supermask":
        raise UsageError(f"--ablation {spec.ablation} belongs to the supermask track; this run is on track {track!r}")


def effective_traits(pruner: Pruner[Any], track: str, info: registry.PrunerInfo) -> Traits:
    """Return the traits that the harness acts on: `control` is honored only for pruneboard's own distribution.

    Raises:
        PluginError: `harden_at` is no fraction, or the search ends early on the supermask track, where no weight is
            left to fine-tune.
    """
    try:
        traits = pruner.traits(track)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"method {info.origin} failed in traits: {type(error).__name__}: {described(error)}"
        ) from error
    if type(traits) is not Traits:
        raise PluginError(f"method {info.origin}: traits must return a pruneboard.api.Traits; found {type(traits)}")
    for name, least in (("forward_passes", 1), ("max_validations", 0)):
        if type(value := getattr(traits, name)) is not int or value < least:
            raise PluginError(
                f"method {info.origin} declares {name}={value!r}: it is a whole number of {least} or more"
            )
    for name in ("hits_target", "split_batch", "writes_weights_at_harden"):
        if not isinstance(value := getattr(traits, name), bool):
            raise PluginError(f"method {info.origin} declares {name}={value!r}: it is True or False")
    if not isinstance(traits.harden_at, (int, float)) or not 0 <= traits.harden_at <= 1:
        raise PluginError(f"method {info.origin} declares harden_at={traits.harden_at!r}: it is a fraction in [0, 1]")
    if track == "supermask" and traits.harden_at not in (0, 1):
        raise PluginError(
            f"method {info.origin} declares harden_at={traits.harden_at} on the supermask track, where nothing is "
            "fine-tuned: it must be 1, or 0 for a mask that is drawn and never learned"
        )
    return traits if info.distribution == "pruneboard" else dataclasses.replace(traits, control=None)


def check_schedule(spec: RunSpec, recipe: Recipe, traits: Traits, budget: Budget, track: str) -> None:
    """Refuse a budget in which a method's search takes no step, or in which the warm-up does not end before the search.

    Weights that are pruned while the learning rate still rises have hardly been trained. A method that prunes before
    the first step has no search: there the warm-up must end before the training does. Without any training, as for a
    drawn mask of frozen weights, nothing is checked.
    """
    share = traits.harden_at
    if share and not budget.harden_step:
        raise UsageError(
            f"the search of method {spec.method!r} takes {share:g} of the budget, which is no step of "
            f"{budget.total} in all: raise --epochs or lower --batch-size, so that there are {_least_steps(share)} "
            "steps or more"
        )
    end = budget.harden_step or budget.total
    if budget.warmup < end or (track == "supermask" and not share):
        return
    what = f"the search of method {spec.method!r}" if share else "the training"
    epochs, longest = _least_epochs(budget, share or 1), math.floor(100 * (end - 1) / budget.steps_per_epoch) / 100
    raise UsageError(
        f"the warm-up takes {budget.warmup} steps (--warmup-epochs {recipe.warmup_epochs:g}) and must end before "
        f"{what} does, after {end} of {budget.total} steps: use --epochs {epochs} or more, "
        f"or --warmup-epochs {longest:g} or less"
    )


def _least_steps(share: float) -> str:
    """Return the least budget of which the search takes one step, if its first `share` is the search's."""
    if share < 1e-9:
        return "a billion"
    return str(next(steps for steps in itertools.count(int(0.5 / share)) if round(share * steps)))


def _least_epochs(budget: Budget, share: float) -> int:
    """Return the least number of epochs of which the first `share` is longer than the warm-up."""
    per_epoch = budget.steps_per_epoch
    first = int(budget.warmup / (share * per_epoch))
    return next(epochs for epochs in itertools.count(first) if round(share * epochs * per_epoch) > budget.warmup)


def check_split_batch(spec: RunSpec, traits: Traits, images: int) -> None:
    """Refuse a `split_batch` method whose passes would get unequal shares of the `images` of a micro-batch."""
    if traits.split_batch and images % traits.forward_passes:
        raise UsageError(
            f"method {spec.method!r} divides the {images} images of a micro-batch among {traits.forward_passes} "
            "forward passes: choose --norm-batch and --batch-size as multiples of the number of passes"
        )


def check_world(spec: RunSpec, recipe: Recipe, plan: ModelPlan) -> None:
    """Refuse a number of processes that would change how many images are normalized together.

    Networks without batch normalization do not depend on that number: they get smaller micro-batches instead.
    """
    launched = World.current().size
    if spec.procs > 1 and launched > 1:
        raise UsageError(
            f"--procs {spec.procs} starts processes, and a launcher has started {launched} already (WORLD_SIZE): "
            "leave --procs out"
        )
    world = max(spec.procs, launched)
    if recipe.batch_size % (micro_batch(recipe, plan, world) * world):
        share = recipe.batch_size // world
        remedy = (
            f"--norm-batch {share} allows it (a board of its own)"
            if share * world == recipe.batch_size
            else f"choose a --batch-size that is a multiple of {world}"
        )
        raise UsageError(
            f"{recipe.micro_batch} images are normalized together and a step has {recipe.batch_size}, "
            f"which {world} processes cannot share: {remedy}"
        )


def micro_batch(recipe: Recipe, plan: ModelPlan, world: int) -> int:
    """Return the images per forward pass on one process."""
    if plan.batch_statistics:
        return recipe.micro_batch
    return min(recipe.micro_batch, max(1, recipe.batch_size // world))


def check_tensorboard(spec: RunSpec) -> None:
    """Refuse `--tensorboard` if the package that writes event files is missing."""
    if spec.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs a package that is not installed: pip install 'pruneboard[tensorboard]'")


def wants_cuda(spec: RunSpec) -> bool:
    """Return whether the run uses GPUs."""
    return spec.device != "cpu" and torch.cuda.is_available()


def pick_device(spec: RunSpec) -> torch.device:
    """Return `device_of(spec)`, and make it torch's current device; on a GPU that creates a CUDA context."""
    device = device_of(spec)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_of(spec: RunSpec) -> torch.device:
    """Return this process's device: its own GPU if the run uses GPUs, else the CPU. Does not use the GPU.

    Raises:
        UsageError: there are fewer GPUs than processes on this host.
    """
    if not wants_cuda(spec):
        if spec.device == "cuda":
            raise UsageError("--device cuda was requested, but torch finds no CUDA device: use --device cpu or auto")
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.device_count() == 1 and World.current().size > 1:
        # A launcher that binds each process to a GPU, such as srun --gpus-per-task=1, hides the other GPUs from it.
        # If several processes see the same GPU instead, `rendezvous.check_same_run` refuses the run.
        index = 0
    needed, visible = max(index + 1, spec.procs), torch.cuda.device_count()
    if needed > visible:
        raise UsageError(f"{needed} processes need one GPU each, and {visible} are visible: lower --procs")
    return torch.device("cuda", index)


def gpu_of(spec: RunSpec) -> str | None:
    """Return the identity of a launched process's GPU, unique over all hosts; None if it uses none or is alone."""
    if not wants_cuda(spec) or World.current().size == 1:
        return None
    return str(torch.cuda.get_device_properties(device_of(spec)).uuid)
