"""The network of a run built anew from its record: do the weights fit it, and does it cost what the record says?

Nothing of a record is handed to timm but what the record's own fields lead to: the network is planned from its
name, as a run would, and what the record says of the plan is compared. So a record cannot have weights fetched or
files opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pruneboard import models
from pruneboard.artifacts.verification import recount
from pruneboard.draws import key
from pruneboard.errors import PruneboardError, UsageError
from pruneboard.models import ModelPlan, cost
from pruneboard.records.mask_file import PackedMask
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck, make_check
from pruneboard.spec import SUPERMASK_INITS

LARGEST_SIDE = 640
"""Pixels of an image; a record that asks for more is not evaluated, so that none can take all memory."""

LARGEST_CLASSES = 100_000

ZLIB_TOLERANCE = 0.05
"""Share by which another build of zlib may come to another number of bytes."""


@dataclass(frozen=True)
class Network:
    """A network built anew.

    Attributes:
        plan: what the record's fields lead to.
        plain: the network on the CPU, with whatever weights.
    """

    plan: ModelPlan
    plain: nn.Module


def network(record: Record) -> Network | RunCheck:
    """Return the network of a finished run; or, where it cannot be built here, the check that says why."""
    try:
        plan = plan_of(record)
        return Network(plan, models.build_model(plan, init="random", seed=0))
    except PruneboardError as error:
        return RunCheck("weights.network", "skipped", f"the network cannot be built here: {error}")


def check(
    record: Record, built: Network, state: Mapping[str, Tensor], masks: Sequence[PackedMask] | None
) -> Iterator[RunCheck]:
    """Load the weights into the network, leave it in evaluation mode, and yield what holds.

    Args:
        record: a validated record of a finished run.
        built: its network.
        state: the tensors of its `model.safetensors`.
        masks: of its layers; None where they are not known.
    """
    try:
        built.plain.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        yield RunCheck("weights.network", "failed", f"the weights do not fit {built.plan.load_as}: {first}")
        return
    built.plain.eval()
    yield make_check("weights.network", _network_problems(record, built.plan, built.plain))
    if record["track"] == "supermask":
        yield _frozen(record, built.plan, state, masks)


def plan_of(record: Record) -> ModelPlan:
    """Return the plan by which a run of this record would build its network.

    Raises:
        UsageError: timm has no such model here, or a size that is none or too large.
    """
    side, classes = record["data"].get("image_size"), record["data"].get("classes")
    for name, value, most in (("image_size", side, LARGEST_SIDE), ("classes", classes, LARGEST_CLASSES)):
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"data.{name} is {value!r:.40}, and 1 to {most} are built")
    stem = record["model"].get("stem")
    if stem not in ("stock", "small"):
        raise UsageError(f"model.stem is {stem!r:.40}, and not stock or small")
    name = record["model"]["name"]
    return models.plan_model(name, num_classes=classes, image_size=side, original_size=side, enlarged=False, stem=stem)


def _network_problems(record: Record, plan: ModelPlan, plain: nn.Module) -> Iterator[str]:
    made = {"load_as": plan.load_as, "create_args": json.loads(json.dumps(plan.create_args))}
    for name, found in made.items():
        if record["model"].get(name) != found:
            yield _differs(f"model.{name}", record["model"].get(name), found)
    usage = cost.usage(plain, record["data"]["image_size"])
    said = [(layer["name"], layer["n"], layer.get("positions")) for layer in record["sparsity"]["layers"]]
    found_layers = models.prunable_layers(plain)
    found = [(name, module.get_parameter("weight").numel(), usage.positions[name]) for name, module in found_layers]
    if said != found:
        yield from (
            _differs("sparsity.layers", one, other) for one, other in zip(said, found, strict=False) if one != other
        )
        if len(said) != len(found):
            yield f"the record has {len(said)} layers, the network {len(found)}"
        return
    for path, expected in _costs(record, plain, usage.attention).items():
        value = lookup(record, path)
        if value is not None and value != expected:
            yield _differs(path, value, expected)
    yield from _weight_problems(record, plain)


def _weight_problems(record: Record, plain: nn.Module) -> Iterator[str]:
    """Hold to the weights themselves what a run reads off them; records of earlier versions say nothing of it."""
    said = lookup(record, "cost.bytes.compressed")
    weights = [module.get_parameter("weight") for _, module in models.prunable_layers(plain)]
    if said is not None and abs(said - (found := cost.compressed_bytes(weights))) > ZLIB_TOLERANCE * found:
        yield _differs("cost.bytes.compressed", said, found)
    if lookup(record, "sparsity.alive") is None:
        return
    left = cost.effective(plain, record["data"]["image_size"])
    if left.alive is not None:  # another timm may do what is not known
        yield from (
            _differs(f"sparsity.layers.{index}.alive", layer.get("alive"), left.alive[layer["name"]])
            for index, layer in enumerate(record["sparsity"]["layers"])
            if layer.get("alive") != left.alive[layer["name"]]
        )


def _costs(record: Record, plain: nn.Module, attention: int) -> dict[str, object]:
    """Return what the network and the record's counts make the costs: path -> value."""
    named = dict(models.prunable_layers(plain))
    layers = [
        cost.LayerCost(
            layer["name"],
            layer["n"],
            layer.get("kept", layer["nonzero"]),
            layer["nonzero"],
            layer["positions"],
            models.standardized(named[layer["name"]]),
        )
        for layer in record["sparsity"]["layers"]
    ]
    rows = {name: module.get_parameter("weight").shape[0] for name, module in named.items()}
    costs: dict[str, object] = {
        "model.parameters": sum(p.numel() for p in plain.parameters()),
        "cost.macs_remaining": sum(layer.macs_remaining for layer in layers),
        "cost.macs_attention": attention,
        **{f"cost.bytes.{form}": size for form, size in cost.storage_bytes(layers, rows).items()},
        "sparsity.left_out": models.left_out(plain),
    }
    return costs | ({"cost.storage_bits": cost.supermask_bits(layers, plain)} if record["track"] == "supermask" else {})


def _differs(path: str, said: object, found: object) -> str:
    return f"{path} is {said!r:.120} in the record, and {found!r:.120} of the network"


def _frozen(
    record: Record, plan: ModelPlan, state: Mapping[str, Tensor], masks: Sequence[PackedMask] | None
) -> RunCheck:
    """Hold a supermask network to its initial weights, drawn anew: bit for bit, wherever a mask keeps something."""
    init, target = record["model"].get("init"), record["sparsity"]["target"]
    if init not in SUPERMASK_INITS or target is None:
        return RunCheck(
            "weights.frozen", "skipped", f"the rule of the frozen weights is {init!r:.40}, which draws nothing"
        )
    seed = key(record["seed"], "init")
    start = models.build_frozen(plan, init=init, keep_ratio=1 - target, seed=seed)
    if models.state_sha256(start.state_dict()) != lookup(record, "model.initial_sha256"):
        return RunCheck(
            "weights.frozen", "skipped", "other initial weights are drawn here than model.initial_sha256 names"
        )
    before = {name: parameter.detach() for name, parameter in start.named_parameters()}
    if lookup(record, "method.ablation") == "redrawn-weights":
        before |= _redrawn(start, init, 1 - target, seed)
    kept = {f"{packed.name}.weight": recount.mask_of(packed) for packed in masks or ()}
    prunable = {f"{name}.weight" for name, _ in models.prunable_layers(start)}
    changed = {
        name: _changed(value, state[name], kept.get(name, state[name] != 0) if name in prunable else None)
        for name, value in before.items()
    }
    return make_check(
        "weights.frozen",
        (f"{name}: {count} values are not the initial ones" for name, count in changed.items() if count),
    )


def _redrawn(start: nn.Module, init: str, keep_ratio: float, seed: int) -> dict[str, Tensor]:
    layers = models.prunable_layers(start)
    shapes = [tuple(module.get_parameter("weight").shape) for _, module in layers]
    drawn = models.redraw_weights(shapes, init, keep_ratio, seed)
    return {f"{name}.weight": weight for (name, _), weight in zip(layers, drawn, strict=True)}


def _changed(before: Tensor, after: Tensor, where: Tensor | None) -> int:
    differs = (after != before) | (after.signbit() != before.signbit())
    return int((differs if where is None else differs & where).sum())
