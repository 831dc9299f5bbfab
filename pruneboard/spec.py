"""Specifications of runs and recipes: frozen, validated dataclasses. Imports no torch.

A `RunSpec` says which method runs on which model and data, at which sparsity. A `Recipe` holds the training settings
that all methods of a board share; recipes are TOML files (`pruneboard/recipes/*.toml`, or a user's own), and
`RunSpec.overrides` can override each of their fields. The command line takes the help text of the recipe's options
from the attribute descriptions of `Recipe`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

from pruneboard.coerce import build_dataclass, check_choice, parse_toml, read_toml
from pruneboard.errors import UnknownNameError, UsageError, why

RULES_VERSION = 2
"""Version of the protocol. Records with different versions never appear in the same table."""

RULES_CHANGES = {2: "validations are charged, and harden changes weights only where the method declares it"}
"""Version -> what it changed in the protocol, in words."""

TrackName = Literal["prune", "supermask"]
AUGMENTATIONS = ("none", "crop", "crop-flip", "imagenet")
TRACKS: tuple[TrackName, ...] = get_args(TrackName)

SCALED = "-scaled"
SUPERMASK_INITS = ("signed-constant", "kaiming-normal", f"signed-constant{SCALED}", f"kaiming-normal{SCALED}")
"""Initializations of the frozen weights on the supermask track (`pruneboard.models.frozen`)."""

METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
METHOD_NAME_NOUN = "lower-case letters, digits, '.', '_' and '-', the first a letter or digit"
"""The names that a method may have: no two of them look alike, and none contains marks such as ` (baseline)`."""

DISTRIBUTION_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
DISTRIBUTION_NAME_NOUN = "ASCII letters, digits, '.', '_' and '-', the first and last a letter or digit"
"""The names that Python packaging allows for a distribution."""

ABLATIONS = ("shuffled-mask", "redrawn-weights")
"""Ablations of a finished mask on the supermask track (`pruneboard.experiment.ablation`)."""


MAX_EPOCHS = 1_000_000
MAX_IMAGE_SIZE = 10_000
MAX_SEEDS = 10_000
"""Maximum of a count of seeds: a seed in its place, such as 20260101, would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training settings that all methods of a board share; none of them may depend on a method.

    Attributes:
        name: the stem of the recipe's file.
        epochs: the whole budget, pruning and fine-tuning steps included.
        batch_size: images per optimizer step over all processes.
        norm_batch: images normalized together by batch normalization (the per-process micro-batch);
            part of a board's identity. 0 means `batch_size`.
        lr: peak learning rate of the weights (SGD, cosine to 0, per step).
        momentum: momentum of SGD.
        nesterov: whether that momentum is Nesterov's.
        weight_decay: on the weights of convolutions and linear layers.
        norm_weight_decay: on all other parameters (biases, normalization, tokens, position embeddings).
        warmup_epochs: linear warm-up at the start of the budget, in epochs.
        label_smoothing: of the cross-entropy.
        clip: maximum of the joint gradient norm over all trained parameters; 0 disables clipping.
        image_size: side in pixels at which the network sees the images.
        augment: `none`, `crop` (pad by 1/8 and crop), `crop-flip`, `imagenet` (timm's transforms).
        val_fraction: share of the training images that is held out for validation.
        default_for: data sets for which this recipe is the default.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    image_size: int
    norm_batch: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    norm_weight_decay: float = 0.0
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip: float = 3.0
    augment: str = "crop-flip"
    val_fraction: float = 0.1
    default_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values outside their range.

        Raises:
            UsageError: a value is out of range.
            UnknownNameError: an augmentation that does not exist.
        """
        _positive(self, "epochs", "batch_size", "image_size")
        _not_negative(
            self, "lr", "norm_batch", "momentum", "weight_decay", "norm_weight_decay", "warmup_epochs", "clip"
        )
        if max(self.epochs, self.warmup_epochs) > MAX_EPOCHS:
            raise UsageError(f"epochs and warmup_epochs must be {MAX_EPOCHS} or less")
        if self.image_size > MAX_IMAGE_SIZE:
            raise UsageError(f"image_size must be {MAX_IMAGE_SIZE} pixels or less; found {self.image_size}")
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction must be a share of images in (0, 1); found {self.val_fraction}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be in [0, 1); found {self.label_smoothing}")
        if self.augment not in AUGMENTATIONS:
            raise UnknownNameError("augmentation", self.augment, AUGMENTATIONS)
        micro = self.norm_batch or self.batch_size
        if self.batch_size % micro:
            raise UsageError(
                f"batch_size {self.batch_size} is not a multiple of norm_batch {micro}: choose one that divides it"
            )

    @property
    def micro_batch(self) -> int:
        """Images normalized together: `norm_batch`, or `batch_size` if that is 0."""
        return self.norm_batch or self.batch_size


RECIPE_FIELDS: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(Recipe).items() if name not in {"name", "default_for"}
}
"""Name -> type of every field that a command-line option can override."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The specification of one run. Only `method` and `model` have no default.

    Attributes:
        method: name of an installed pruner (`pruneboard list`).
        model: any timm classifier, or one of pruneboard's own (`resnet20_cifar`, ...).
        sparsity: fraction of zeros over the prunable weights, in [0, 1); None only for a control that prunes nothing.
        options: the method's own options.
        track: `prune` or `supermask`; None is the method's only track, or `prune` if it has both.
        dataset: `digits`, `cifar10`, `cifar100`, `folder` or `imagenet`.
        data_dir: folder of that data set.
        download: download the data set if it is missing; nothing is downloaded otherwise.
        recipe: name or path of a recipe; None is the default of the data set.
        overrides: recipe fields to override, with their values.
        seed: integer of 0 or more, from which all random numbers of the run are derived.
        tuning_trials: number of option sets of this method that were tried on this data set before these were
            chosen; 0 if the options were not tuned here. It changes no result and is not part of the content hash.
        tuning_source: source of the options: a paper, or the search that chose them.
        limit_train: use only this many training images: the first of each class, equally many of each as far as there
            are enough; None is all.
        check_images: decode every image file once before training; otherwise only the headers of streaming images are
            read. It changes no result and is not part of the content hash.
        init: on the prune track `random` (the default), `pretrained` (timm's weights) or a `.safetensors` file; on
            the supermask track `signed-constant` (the default), `kaiming-normal`, or one of these with `-scaled`.
        ablation: on the supermask track, `shuffled-mask` or `redrawn-weights`: what to evaluate instead of the
            mask that was found. The run gets its own row.
        stem: `stock` or `small`; None follows the rule of `pruneboard.models`.
        precision: `fp32` or `bf16` (autocast; parameters stay float32).
        zero: DeepSpeed ZeRO stage, 0, 1 or 2.
        compile: compile the network's training passes with torch.compile.
        procs: number of processes on this machine.
        device: `auto`, `cpu` or `cuda`.
        checkpoint_every: steps between checkpoints, in addition to one after every epoch; 0 for none in between.
        results: results folder, with one folder per run.
        force: repeat the run even if it has a finished record, which is kept in `superseded/`.
        tensorboard: write TensorBoard event files next to the record.
    """

    method: str
    model: str
    sparsity: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    track: TrackName | None = None
    dataset: str = "digits"
    data_dir: str | None = None
    download: bool = False
    recipe: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    tuning_trials: int = 0
    tuning_source: str | None = None
    limit_train: int | None = None
    check_images: bool = False
    init: str | None = None
    ablation: str | None = None
    stem: str | None = None
    precision: str = "fp32"
    zero: int = 0
    compile: bool = False
    procs: int = 1
    device: str = "auto"
    checkpoint_every: int = 1000
    results: str = "results"
    force: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Reject values that are wrong whatever the method, the model and the data.

        Raises:
            UsageError: a value is out of range or not one of those allowed.
        """
        if self.sparsity is not None:
            object.__setattr__(self, "sparsity", check_sparsity(self.sparsity))
        check_choice("track", self.track, (None, *TRACKS))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("ZeRO stage", self.zero, (0, 1, 2), "3 shards the weights, which a mask needs complete")
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("stem", self.stem, (None, "stock", "small"))
        check_choice("ablation", self.ablation, (None, *ABLATIONS))
        if self.procs < 1:
            raise UsageError(f"procs must be a number of processes, 1 or more; found {self.procs}")
        if self.checkpoint_every < 0:
            raise UsageError(f"checkpoint_every must be a number of steps, 0 or more; found {self.checkpoint_every}")
        if self.limit_train is not None and self.limit_train < 1:
            raise UsageError(f"limit_train must be a number of images, 1 or more; found {self.limit_train}")
        if self.seed < 0:
            raise UsageError(f"seed must be an integer of 0 or more; found {self.seed}")
        if self.tuning_trials < 0:
            raise UsageError(f"tuning_trials must be a number of trials, 0 or more; found {self.tuning_trials}")

    def with_absolute_paths(self) -> RunSpec:
        """Return the spec with absolute paths, which stay the same if a method changes the working directory.

        Raises:
            UsageError: a path is relative, and the working directory was deleted.
        """
        try:
            return replace(
                self,
                data_dir=_absolute(self.data_dir),
                results=str(Path(self.results).absolute()),
                recipe=_absolute(self.recipe, ".toml"),
                init=_absolute(self.init, ".safetensors"),
            )
        except OSError as error:
            raise UsageError(f"the working directory cannot be read ({why(error)}): cd to one that exists") from None


def _absolute(path: str | None, suffix: str = "") -> str | None:
    return str(Path(path).absolute()) if path and path.endswith(suffix) else path


def resolve_init(init: str | None, track: str) -> str:
    """Return the initialization of a run on `track`, with None replaced by the track's default.

    Raises:
        UsageError: an initialization of the other track.
    """
    if track == "supermask":
        init = init or SUPERMASK_INITS[0]
        check_choice("init on the supermask track", init, SUPERMASK_INITS, "its weights are drawn and frozen")
        return init
    if init in SUPERMASK_INITS:
        raise UsageError(f"init {init} belongs to the supermask track: add --track supermask, or leave --init out")
    return init or "random"


def check_sparsity(value: object) -> float:
    """Return `value`, a number or its text, as a sparsity in [0, 1).

    Raises:
        UsageError: it is not a number, or outside [0, 1).
    """
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"sparsity must be a fraction of zeros, such as 0.9; found {value!r}") from None
    if not (math.isfinite(number) and 0 <= number < 1):
        percent = f"; for {number:g} % write {number / 100:g}" if 1 < number < 100 else ""
        raise UsageError(f"sparsity must be a fraction of zeros in [0, 1); found {value}{percent}")
    return abs(number)  # -0.0 would give another content hash than 0.0


def recipe_names() -> list[str]:
    """Return the names of the recipes that are shipped with pruneboard, sorted."""
    folder = resources.files("pruneboard") / "recipes"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".toml"))


def default_recipe(dataset: str) -> str:
    """Return the name of the recipe that lists `dataset` under `default_for`.

    Raises:
        UsageError: there is none.
    """
    for name in recipe_names():
        if dataset in load_recipe(name).default_for:
            return name
    raise UsageError(f"data set {dataset!r} has no default recipe: select one with --recipe")


def load_recipe(name: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe and apply `overrides`.

    Args:
        name: the name of a shipped recipe, or the path of a `.toml` file.
        overrides: field -> value, or its text; they replace the values in the file.

    Raises:
        UnknownNameError: no such recipe, or a field that recipes do not have.
        UsageError: the file cannot be read or is not TOML, or a value has the wrong type or range.
    """
    path = Path(name)
    if path.suffix == ".toml":
        values = read_toml(path)
        name = path.stem
    elif name in recipe_names():
        text = (resources.files("pruneboard") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        values = parse_toml(text, f"recipe {name}")
    else:
        raise UnknownNameError("recipe", name, recipe_names(), "for a file of your own, give its path, such as x.toml")
    default_for = _names(values.pop("default_for", []), f"default_for in recipe {name}")
    values |= dict(overrides or {})
    return build_dataclass(Recipe, {**values, "name": name, "default_for": default_for}, f"recipe {name}")


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where} must be a list of data sets; found {value!r}")
    return tuple(value)


def _positive(obj: object, *names: str) -> None:
    for name in names:
        if getattr(obj, name) < 1:
            raise UsageError(f"{name} must be a whole number of 1 or more; found {getattr(obj, name)}")


def _not_negative(obj: object, *names: str) -> None:
    for name in names:
        if getattr(obj, name) < 0:
            raise UsageError(f"{name} must be 0 or more; found {getattr(obj, name)}")
