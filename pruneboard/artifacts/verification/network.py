"""Rebuild the network of a record: do the weights fit, and does it cost what the record says?

A record is untrusted, so none of its arguments reach timm. The network is planned from its name, as in a run, and the
result is compared with the record's `create_args`. A record can therefore cause neither downloads nor file access.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruneboard import models
from pruneboard.artifacts.verification import weights
from pruneboard.artifacts.verification.weights import Masks, State, mask_of
from pruneboard.draws import key
from pruneboard.errors import PruneboardError, UsageError
from pruneboard.models import ModelPlan, cost
from pruneboard.records.schema import Record, lookup
from pruneboard.records.verdicts import RunCheck, make_check
from pruneboard.spec import SUPERMASK_INITS

MAX_SIDE, MAX_CLASSES = 640, 100_000
"""Largest image side in pixels, and largest number of classes, of a network that is built: records are untrusted, and
must not be able to exhaust the memory."""

MAX_UNSAVED = 2**28
"""Largest number of bytes of a network's tensors that are not part of its weights, such as tables of positions."""

ZLIB_TOLERANCE = 0.05
"""Largest relative difference of the compressed size: builds of zlib compress differently."""


@dataclass(frozen=True)
class RebuiltNetwork:
    """A network rebuilt from a record.

    Attributes:
        plan: the plan made from the record's fields.
        module: the network, on the CPU.
        state: its weights, as they are in the file.
    """

    plan: ModelPlan
    module: nn.Module
    state: State


def load_network(record: Record, path: Path, masks: Masks, checks: list[RunCheck]) -> RebuiltNetwork | None:
    """Check the weights of a finished run, rebuild its network, load the weights, and set it to evaluation mode.

    A small file next to a record of a very large network must not cause the network to be built. Therefore the shapes
    in the header of the file are compared with those of the network on the meta device, before anything is allocated.

    Args:
        record: a validated record of a finished run.
        path: its `model.safetensors`.
        masks: its masks, if they could be read.
        checks: the checks made so far, to which those of the weights and of the network are appended.

    Returns:
        The network; None if it was not built, because a check of the record, masks or weights failed, or because
        this machine cannot build it, which the last check states.

    Raises:
        StoreError: the file cannot be read; the message does not contain `path`.
    """
    shapes = weights.read_shapes(path)
    checks.append(RunCheck("weights.file", "ok"))
    try:
        plan, problem = plan_of(record, limit=sum(tensor.numel() for tensor in shapes.values())), None
        misfit = _misfit(plan, shapes)
    except PruneboardError as error:
        plan, problem, misfit = None, error, None
    if misfit is not None:
        checks.append(RunCheck("weights.network", "failed", misfit))
        return None
    state = weights.read_weights(path)
    checks += weights.check_weights(record, state, masks)
    if any(check.status == "failed" for check in checks):
        return None  # disputed already
    if plan is None:
        checks.append(RunCheck("weights.network", "skipped", f"the network cannot be built here: {problem}"))
        return None
    return _build(record, plan, state, masks, checks)


def _misfit(plan: ModelPlan, shapes: State) -> str | None:
    """Return why weights of these shapes are not those of the planned network, or None if they are.

    Raises:
        UsageError: the network has large tensors that are not part of its weights, or cannot be built on this device.
    """
    network = models.meta_model(plan)
    unsaved = _bytes(network.buffers()) + _bytes(network.parameters()) - _bytes(network.state_dict().values())
    if unsaved > MAX_UNSAVED:
        raise UsageError(f"{plan.load_as} has {unsaved} bytes of tensors besides its weights; at most {MAX_UNSAVED}")
    try:
        with torch.device("meta"):  # batch normalization creates a counter if there is none
            network.load_state_dict(dict(shapes), strict=True)
    except RuntimeError as error:
        return f"the weights do not fit {plan.load_as}: {' '.join(str(error).split())[:200]}"
    return None


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _build(
    record: Record, plan: ModelPlan, state: State, masks: Masks, checks: list[RunCheck]
) -> RebuiltNetwork | None:
    try:
        built = RebuiltNetwork(plan, models.build_model(plan, init="random", seed=0), state)
        wanted = built.module.state_dict()
        for name in state:
            if state[name].dtype != wanted[name].dtype:  # loading would convert it: the file would hold other numbers
                note = f"{name} has the type {state[name].dtype} in the file, and {wanted[name].dtype} in the network"
                checks.append(RunCheck("weights.network", "failed", note))
                return None
        built.module.load_state_dict(dict(state), strict=True)
    except PruneboardError as error:
        checks.append(RunCheck("weights.network", "skipped", f"the network cannot be built here: {error}"))
        return None
    built.module.eval()
    checks.append(make_check("weights.network", _network_problems(record, plan, built.module)))
    if record["track"] == "supermask":
        checks.append(_check_frozen(record, plan, state, masks))
    return built


def plan_of(record: Record, *, limit: int | None = None) -> ModelPlan:
    """Return the plan with which a run of this record would build its network.

    Args:
        record: a validated record.
        limit: most numbers of a network that may be allocated to make the plan; None for any.

    Raises:
        UsageError: this version of timm has no such model, or a size is invalid or too large.
    """
    side, classes = record["data"].get("image_size"), record["data"].get("classes")
    for name, value, most in (("image_size", side, MAX_SIDE), ("classes", classes, MAX_CLASSES)):
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"data.{name} is {value!r:.40}; it must be an integer from 1 to {most}")
    stem = record["model"].get("stem")
    if stem not in ("stock", "small"):
        raise UsageError(f"model.stem is {stem!r:.40}; it must be stock or small")
    name = record["model"]["name"]
    return models.plan_model(
        name, num_classes=classes, image_size=side, original_size=side, enlarged=False, stem=stem, limit=limit
    )


def _network_problems(record: Record, plan: ModelPlan, module: nn.Module) -> Iterator[str]:
    planned = {"load_as": plan.load_as, "create_args": json.loads(json.dumps(plan.create_args))}
    for name, found in planned.items():
        if record["model"].get(name) != found:
            yield _differs(f"model.{name}", record["model"].get(name), found)
    usage = cost.usage(module, record["data"]["image_size"])
    recorded = [(layer["name"], layer["n"], layer.get("positions")) for layer in record["sparsity"]["layers"]]
    prunable = models.prunable_layers(module)
    found = [(name, layer.get_parameter("weight").numel(), usage.positions[name]) for name, layer in prunable]
    if recorded != found:
        pairs = zip(recorded, found, strict=False)
        yield from (_differs("sparsity.layers", one, other) for one, other in pairs if one != other)
        if len(recorded) != len(found):
            yield f"the record has {len(recorded)} layers, the network {len(found)}"
        return
    for path, expected in _costs(record, module, usage.attention).items():
        value = lookup(record, path)
        if value is not None and value != expected:
            yield _differs(path, value, expected)
    yield from _weight_problems(record, module)


def _weight_problems(record: Record, module: nn.Module) -> Iterator[str]:
    """Compare the values that a run computes from the weights themselves; earlier versions do not record them."""
    recorded = lookup(record, "cost.bytes.compressed")
    prunable = [layer.get_parameter("weight") for _, layer in models.prunable_layers(module)]
    if recorded is not None and abs(recorded - (found := cost.compressed_bytes(prunable))) > ZLIB_TOLERANCE * found:
        yield _differs("cost.bytes.compressed", recorded, found)
    if lookup(record, "sparsity.alive") is None:
        return
    alive = cost.count_alive(module, record["data"]["image_size"]).alive
    if alive is not None:  # None if this version of timm has an operation that cannot be followed
        yield from (
            _differs(f"sparsity.layers.{index}.alive", layer.get("alive"), alive[layer["name"]])
            for index, layer in enumerate(record["sparsity"]["layers"])
            if layer.get("alive") != alive[layer["name"]]
        )


def _costs(record: Record, module: nn.Module, attention: int) -> dict[str, object]:
    """Compute the costs from the network and the record's counts: path in the record -> value."""
    prunable = dict(models.prunable_layers(module))
    layers = [
        cost.LayerCost(
            layer["name"],
            layer["n"],
            layer.get("kept", layer["nonzero"]),
            layer["nonzero"],
            layer["positions"],
            models.standardized(prunable[layer["name"]]),
        )
        for layer in record["sparsity"]["layers"]
    ]
    rows = {name: layer.get_parameter("weight").shape[0] for name, layer in prunable.items()}
    costs: dict[str, object] = {
        "model.parameters": sum(p.numel() for p in module.parameters()),
        "cost.macs_remaining": sum(layer.macs_remaining for layer in layers),
        "cost.macs_attention": attention,
        **{f"cost.bytes.{form}": size for form, size in cost.storage_bytes(layers, rows).items()},
        "sparsity.left_out": models.left_out(module),
    }
    if record["track"] == "supermask":
        costs["cost.storage_bits"] = cost.supermask_bits(layers, module)
    return costs


def _differs(path: str, recorded: object, found: object) -> str:
    return f"{path} is {recorded!r:.120} in the record and {found!r:.120} in the network"


def _check_frozen(record: Record, plan: ModelPlan, state: State, masks: Masks) -> RunCheck:
    """Draw the initial weights of a supermask network again, and compare them bit for bit wherever a mask keeps one.

    Positions that a mask drops are 0 in the weights, so only kept ones can be compared. Without masks, every non-zero
    weight counts as kept.
    """
    init, target = record["model"].get("init"), record["sparsity"]["target"]
    if init not in SUPERMASK_INITS or target is None:
        return RunCheck("weights.frozen", "skipped", f"model.init is {init!r:.40}, which draws no frozen weights")
    seed = key(record["seed"], "init")
    start = models.build_frozen(plan, init=init, keep_ratio=1 - target, seed=seed)
    if models.state_sha256(start.state_dict()) != lookup(record, "model.initial_sha256"):
        return RunCheck(
            "weights.frozen", "skipped", "this machine draws other initial weights than model.initial_sha256 states"
        )
    before = {name: parameter.detach() for name, parameter in start.named_parameters()}
    if lookup(record, "method.ablation") == "redrawn-weights":
        before |= _redraw(start, init, 1 - target, seed)
    kept = {f"{packed.name}.weight": mask_of(packed) for packed in masks or ()}
    prunable = {f"{name}.weight" for name, _ in models.prunable_layers(start)}
    changed = {
        name: _count_changed(value, state[name], kept.get(name, state[name] != 0) if name in prunable else None)
        for name, value in before.items()
    }
    return make_check(
        "weights.frozen",
        (f"{name}: {count} values differ from the initial ones" for name, count in changed.items() if count),
    )


def _redraw(start: nn.Module, init: str, keep_ratio: float, seed: int) -> dict[str, Tensor]:
    layers = models.prunable_layers(start)
    shapes = [tuple(module.get_parameter("weight").shape) for _, module in layers]
    drawn = models.redraw_weights(shapes, init, keep_ratio, seed)
    return {f"{name}.weight": weight for (name, _), weight in zip(layers, drawn, strict=True)}


def _count_changed(before: Tensor, after: Tensor, where: Tensor | None) -> int:
    differs = (after != before) | (after.signbit() != before.signbit())  # -0.0 == 0.0, so compare the signs too
    return int((differs if where is None else differs & where).sum())
