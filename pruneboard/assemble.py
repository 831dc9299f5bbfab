"""The two ends of a run: the training put together, and the record of what came out."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pruneboard import audit, cost, gates, models, optim, packed, provenance, registry, scores, store
from pruneboard import record as records
from pruneboard.api import Pruner, Traits
from pruneboard.audit import Count
from pruneboard.checkpoint import Keeper
from pruneboard.compiling import Compiled
from pruneboard.cost import Effective, LayerCost, Usage
from pruneboard.data import BatchPlan, Dataset, Split, eval_batches, order_sha256
from pruneboard.engine import Engine
from pruneboard.errors import AuditError, DivergedError
from pruneboard.evaluate import Scores, evaluate
from pruneboard.packed import Packed
from pruneboard.prepare import Job, micro_batch
from pruneboard.spec import Recipe
from pruneboard.training import Listener, Start, Training, plan_budget
from pruneboard.world import World


@dataclass(frozen=True)
class Setting:
    """What training takes besides a network and images.

    Attributes:
        pruner: the method.
        traits: what it declares, as far as it is honoured.
        method: what it is called in messages.
        recipe: the training that every method shares.
        seeds: of `order`, `augmentation` and `pruner`.
        micro_batch: images per forward pass on this process.
        device: where to train.
        keeper: saves the run.
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
    keeper: Keeper
    zero: int = 0
    precision: str = "fp32"


def training(job: Job, dataset: Dataset, device: torch.device, listener: Listener, began: float) -> Training:
    """Build model, gates and engine; `began` is when the attempt did, by `time.perf_counter`."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    pruner = registry.build(job.info, job.spec.sparsity, job.spec.options)
    setting = Setting(
        pruner=pruner,
        traits=Traits(**job.known["method"]["traits"]),
        method=job.info.origin,
        recipe=job.recipe,
        seeds=job.seeds,
        micro_batch=micro_batch(job.recipe, job.plan, World.current().size),
        device=device,
        keeper=keeper(job),
        zero=job.spec.zero,
        precision=job.spec.precision,
    )
    compiled = job.spec.model if job.spec.compile else None
    return put_together(setting, initial_model(job, pruner.sparsity), dataset, listener, began, compiled)


def put_together(
    setting: Setting,
    model: nn.Module,
    dataset: Dataset,
    listener: Listener,
    began: float,
    compiled: str | None = None,
) -> Training:
    """Attach the gates of a method to `model` and hand it to the engine.

    Args:
        setting: method, recipe and engine.
        model: a plain network with its initial weights; without a trainable parameter on the supermask track.
        dataset: what to train on.
        listener: who watches.
        began: when the attempt did, by `time.perf_counter`.
        compiled: the name of the network that torch.compile compiles; None compiles nothing.
    """
    pruner, recipe, traits = setting.pruner, setting.recipe, setting.traits
    start = Start.of(model, frozen=not any(parameter.requires_grad for parameter in model.parameters()))
    gates.store_scalars(model)
    clock = gates.DrawClock(setting.seeds["pruner"])
    layers = gates.attach(pruner, models.gated_layers(model), clock, hits_target=traits.hits_target)
    budget = plan_budget(recipe, dataset, traits.harden_at)
    groups = optim.parameter_groups(
        model, gates.gate_parameters(layers), recipe, pruner.gate_optimizer(budget.harden_step)
    )
    engine = Engine(
        model,
        groups,
        device=setting.device,
        micro_batch=setting.micro_batch,
        clip=recipe.clip,
        zero=setting.zero,
        precision=setting.precision,
        compiled=Compiled(model, compiled) if compiled else None,
    )
    plan = BatchPlan(
        batch_size=recipe.batch_size,
        micro_batch=setting.micro_batch,
        rank=engine.rank,
        world=engine.world,
        augment=recipe.augment,
        order_seed=setting.seeds["order"],
        augment_seed=setting.seeds["augmentation"],
        device=setting.device,
    )
    return Training(
        engine=engine,
        pruner=pruner,
        layers=layers,
        dataset=dataset,
        plan=plan,
        recipe=recipe,
        budget=budget,
        clock=clock,
        forward_passes=traits.forward_passes,
        split_batch=traits.split_batch,
        method=setting.method,
        listener=listener,
        start=start,
        keeper=setting.keeper,
        began=began,
    )


def keeper(job: Job) -> Keeper:
    """Return what saves the run and finds it again."""
    return Keeper(job.folder, job.spec.checkpoint_every, {"content hash": job.hash, **provenance.code(job.info.target)})


def attempt(job: Job, run: Training) -> dict[str, Any]:
    """Return what the record says of this attempt besides the step it went on from."""
    return {"started": now(), "world_size": run.engine.world, "zero": job.spec.zero, "device": run.engine.device.type}


def initial_model(job: Job, sparsity: float) -> nn.Module:
    """Build the network with its initial weights: all of them frozen on the supermask track."""
    if job.track == "supermask":
        return models.build_frozen(job.plan, init=job.init, keep_ratio=1 - sparsity, seed=job.seeds["init"])
    return models.build_model(job.plan, init=job.init, seed=job.seeds["init"])


def record(job: Job, run: Training) -> dict[str, Any]:
    """Fold, audit, evaluate the plain model on the test split, once, and return the finished record.

    The first process writes the folded weights and the packed masks beside it.
    """
    run.listener.on_phase("evaluating the folded model on the test split")
    state = gates.fold(run.engine.model, run.layers)
    _same_everywhere(run, state)
    counts = audit.count(run.layers, state)
    keep = scores.kept_of(sum(c.n for c in counts), run.pruner.sparsity)
    audit.audit(counts, keep if job.known["method"]["traits"]["hits_target"] else None)
    if run.start.frozen is not None:
        audit.untouched(run.layers, run.start.frozen, state)
    plain = models.build_model(job.plan, init="random", seed=0)
    plain.load_state_dict(state)
    plain = plain.to(run.engine.device).eval()
    test, validation = (_evaluate(run, plain, split) for split in (run.dataset.test, run.dataset.validation))
    if not math.isfinite(test.loss + validation.loss):
        raise DivergedError("the folded model's loss is not a finite number: lower the learning rate (--lr)")
    masks = [packed.pack(layer.name, layer.gate.kept(layer.dense.detach()).cpu().numpy()) for layer in run.layers]
    if run.engine.rank == 0:
        _save(job, state, masks)
    taken = _taken(run)  # before what follows, which is no part of the run
    usage = cost.usage(plain, run.dataset.image_size)
    layers = _layer_costs(counts, usage, plain)
    parameters = sum(p.numel() for p in plain.parameters())
    return {
        **job.known,
        "status": "done",
        "error": None,
        "model": {**job.known["model"], "parameters": parameters, "initial_sha256": run.start.sha256},
        "data": {**job.known["data"], "order_sha256": _order(run)},
        "board": _fingerprinted({**job.known["board"], "prunable": sum(c.n for c in counts)}),
        "budget": _budget(job, run),
        "engine": _engine(job, run),
        "hardware": provenance.hardware(run.engine.device, torch.get_num_threads()),
        "software": provenance.software(job.info.target),
        "sparsity": {
            **audit.sparsity_block(counts, job.spec.sparsity, keep, parameters),
            **_per_layer(layers, cost.effective(plain, run.dataset.image_size)),
            "left_out": models.left_out(plain),
        },
        "metrics": {
            "test": test.as_dict(),
            "validation": validation.as_dict(),
            "best_validation": run.so_far.best_validation,
        },
        "cost": {**_cost(run, layers, usage, plain), **taken},
        "weights_sha256": models.state_sha256(state),
        "mask_sha256": packed.sha256(masks),
        "lifecycle": {
            "started": run.so_far.attempts[0]["started"],
            "ended": now(),
            "resumes": len(run.so_far.attempts) - 1,
            "attempts": run.so_far.attempts,
        },
    }


def unfinished(job: Job, started: str, status: str, kind: str, message: str) -> dict[str, Any]:
    """Return the record of a run that started and did not finish."""
    return {
        **job.known,
        "status": status,
        "error": {"kind": kind, "message": _without_paths(message, job)},
        "board": _fingerprinted(job.known["board"]),
        "software": provenance.software(job.info.target),
        "lifecycle": {"started": started, "ended": now()},
    }


def _without_paths(message: str, job: Job) -> str:
    """Return `message` with the user's own folders replaced by what they are: records are published."""
    for folder, name in ((job.spec.data_dir, "DATA_DIR"), (job.spec.results, "RESULTS"), (str(Path.home()), "~")):
        if folder and folder.strip("/."):
            message = message.replace(folder, name)
    return message


def _fingerprinted(board: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal for two rows to stand in one table, with its fingerprint."""
    return {"fingerprint": records.fingerprint(board), **board}


def _same_everywhere(run: Training, state: Mapping[str, Tensor]) -> None:
    name = run.engine.first_difference(state)
    if name is not None:
        raise AuditError(f"tensor {name} of the folded model differs between processes")


def _evaluate(run: Training, plain: nn.Module, split: Split) -> Scores:
    batches = eval_batches(
        split,
        run.dataset,
        batch_size=run.plan.micro_batch,
        rank=run.plan.rank,
        world=run.plan.world,
        device=run.plan.device,
    )
    return evaluate(plain, batches, len(run.dataset.classes), run.engine.sum)


def _save(job: Job, state: Mapping[str, Tensor], masks: Sequence[Packed]) -> None:
    # One key alone: several come out in any order, and equal networks are to be equal files.
    store.write_atomic(job.folder / store.WEIGHTS, save(dict(state), {"load_as": job.plan.load_as}))
    store.write_atomic(job.folder / store.MASK, packed.dumps(masks))


def _order(run: Training) -> dict[str, str]:
    last = run.budget.epochs - 1
    return {
        "first": order_sha256(run.dataset, run.plan, epoch=0),
        "last": order_sha256(run.dataset, run.plan, epoch=last),
    }


def _budget(job: Job, run: Training) -> dict[str, Any]:
    return {
        "epochs": run.budget.epochs,
        "steps": run.budget.total,
        "steps_per_epoch": run.budget.steps_per_epoch,
        "harden_step": run.budget.harden_step,
        "global_batch": run.plan.batch_size,
        "norm_batch": job.recipe.micro_batch if job.plan.batch_statistics else None,
        "limit_train": job.spec.limit_train,
    }


def _engine(job: Job, run: Training) -> dict[str, Any]:
    return {
        "deepspeed": provenance.version_of("deepspeed"),
        "zero": job.spec.zero,
        "world_size": run.engine.world,
        "micro_batch": run.plan.micro_batch,
        "accumulation": run.plan.batch_size // (run.plan.micro_batch * run.engine.world),
        "precision": job.spec.precision,
        "compile": job.spec.compile,
        "deterministic": run.engine.device.type == "cpu",
    }


def _layer_costs(counts: Sequence[Count], usage: Usage, plain: nn.Module) -> list[LayerCost]:
    rescaled = {name for name, layer in models.prunable_layers(plain) if models.standardized(layer)}
    return [LayerCost(c.name, c.n, c.kept, c.nonzero, usage.positions[c.name], c.name in rescaled) for c in counts]


def _per_layer(layers: Sequence[LayerCost], left: Effective) -> dict[str, Any]:
    """Return what the record's `sparsity` says layer by layer, and of the weights that still have a part."""
    alive = left.alive
    total = None if alive is None else sum(alive.values())
    n = sum(layer.n for layer in layers)
    return {
        "layers": [layer.as_dict() | ({} if alive is None else {"alive": alive[layer.name]}) for layer in layers],
        "alive": total,
        "effective": None if total is None else (n - total) / n,
        "effective_unknown": left.why,
    }


def _cost(run: Training, layers: Sequence[LayerCost], usage: Usage, plain: nn.Module) -> dict[str, Any]:
    dense = sum(layer.macs_dense for layer in layers)
    trained = cost.train_macs(dense, run.images + run.so_far.scoring_passes)
    reference = cost.train_macs(dense, run.plan.batch_size * run.budget.total)
    weights = [layer.get_parameter("weight") for _, layer in models.prunable_layers(plain)]
    stored = cost.storage_bytes(layers, {layer.name: layer.dense.shape[0] for layer in run.layers})
    return {
        "forward_passes": run.forward_passes,
        "train_macs": trained,
        "dense_train_macs": reference,
        "relative_train_macs": trained / reference,
        "macs_dense": dense,
        "macs_remaining": sum(layer.macs_remaining for layer in layers),
        "macs_attention": usage.attention,
        "macs_definition": cost.MACS_DEFINITION,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "bytes": {**stored, "compressed": cost.compressed_bytes(weights)},
        "storage_bits": cost.supermask_bits(layers, plain) if run.start.frozen is not None else None,
    }


def _taken(run: Training) -> dict[str, Any]:
    """Return what the run has taken until now."""
    return {
        "wall_seconds": round(run.seconds, 3),
        "hook_seconds": round(run.so_far.hook_seconds, 3),
        "peak_memory_bytes": cost.peak_memory_bytes(run.engine.device),
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
