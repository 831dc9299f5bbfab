"""The end of a run: fold, audit and evaluate the trained network, and build the record from what was measured."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pruneboard import models, scores
from pruneboard.data import order_sha256
from pruneboard.errors import AuditError, DivergedError, RunError, StoreError
from pruneboard.experiment import audit, rescue
from pruneboard.experiment.audit import LayerCount
from pruneboard.experiment.prepare import Job
from pruneboard.models import cost
from pruneboard.models.cost import AliveCounts, LayerCost, Usage
from pruneboard.processes import memory, phases
from pruneboard.records import mask_file, provenance, store
from pruneboard.records import schema as records
from pruneboard.records.mask_file import PackedMask
from pruneboard.training import gates
from pruneboard.training.integrity import check_folded
from pruneboard.training.loop import evaluate_split
from pruneboard.training.state import Training

MAX_MESSAGE = 10_000
"""Maximum number of characters of an error message in a record: records are limited in size."""


def finished_record(job: Job, run: Training) -> dict[str, Any]:
    """Fold, audit and evaluate the trained network, and return the record of the finished run.

    The test split is evaluated here and nowhere else, once. Rank 0 also saves the folded weights and the masks.

    Raises:
        RunError: the network breaks a rule, or the folder of the run can no longer be written; then the run is saved
            elsewhere, if that is possible.
    """
    run.listener.on_phase("evaluating the folded model on the test split")

    # Fold every gate into its weight, and check the result against what the method declared.
    state = gates.fold(run.engine.model, run.layers)
    _check_ranks_agree(run, state)
    counts = audit.count_layers(run.layers, state)
    sparsity = run.pruner.sparsity if job.spec.sparsity is None else job.spec.sparsity
    keep = scores.kept_of(sum(c.n for c in counts), sparsity)
    check_folded(run.method, run.layers, state)
    audit.check_budget(counts, keep if job.traits.hits_target else None)
    if run.initial.frozen is not None:
        audit.check_unchanged(run.layers, run.initial.frozen, state)

    # From here on, measure a plain network that holds the folded weights: no gate, no code of the method.
    plain = models.build_model(job.plan, init="random", seed=0)
    plain.load_state_dict(state)
    plain = plain.to(run.engine.device).eval()
    test = evaluate_split(run, plain, run.dataset.test, "test images")
    validation = evaluate_split(run, plain, run.dataset.validation, "validation images")
    if not math.isfinite(test.loss + validation.loss):
        raise DivergedError("the folded model's loss is not a finite number: lower the learning rate (--lr)")
    if run.integrity is not None and not job.spec.ablation:
        run.integrity.check_finished()  # also the gates' `folded` and `kept` may only read
    masks = [mask_file.pack(layer.name, layer.gate.kept(layer.dense.detach()).cpu().numpy()) for layer in run.layers]
    phases.report("saving the network and counting its cost")
    refused = _save_artifacts(job.folder, job, state, masks) if run.engine.rank == 0 else None
    resources = _resources_used(run)  # read now: what follows analyses the network and is not part of the run

    usage = cost.usage(plain, run.dataset.image_size)
    layers = _layer_costs(counts, usage, plain)
    parameters = sum(p.numel() for p in plain.parameters())
    record = {
        **job.base_record,
        "status": "done",
        "error": None,
        "model": {**job.base_record["model"], "parameters": parameters, "initial_sha256": run.initial.sha256},
        "data": {**job.base_record["data"], "order_sha256": _image_order(run)},
        "board": _with_fingerprint({**job.base_record["board"], "prunable": sum(c.n for c in counts)}),
        "budget": _budget(job, run),
        "engine": _engine(job, run),
        "hardware": provenance.hardware(run.engine.device, torch.get_num_threads()),
        "software": provenance.software(job.info.target),
        "sparsity": {
            **audit.sparsity_block(counts, job.spec.sparsity, keep, parameters),
            **_per_layer(layers, cost.count_alive(plain, run.dataset.image_size)),
            "left_out": models.left_out(plain),
        },
        "metrics": {
            "test": test.as_dict(),
            "validation": validation.as_dict(),
            "best_validation": run.state.best_validation,
        },
        "cost": {**_cost(run, layers, usage, plain), **resources},
        "weights_sha256": models.state_sha256(state),
        "mask_sha256": mask_file.sha256(masks),
        "lifecycle": {
            "started": run.state.attempts[0]["started"],
            "ended": provenance.now(),
            "resumes": len(run.state.attempts) - 1,
            "attempts": run.state.attempts,
        },
    }
    if refused is not None:
        raise _rescued(job, record, state, masks, refused)
    return record


def unfinished_record(job: Job, started: str, status: str, kind: str, message: str) -> dict[str, Any]:
    """Return the record of a run that started and failed or was interrupted.

    Args:
        job: the resolved run.
        started: when this attempt started (`provenance.now`).
        status: as in `records.schema`, for example `failed` or `interrupted`.
        kind: class of the error.
        message: its message; the user's own folders are replaced.
    """
    return {
        **job.base_record,
        "status": status,
        "error": {"kind": kind, "message": _without_paths(message, job)[:MAX_MESSAGE]},
        "board": _with_fingerprint(job.base_record["board"]),
        "software": provenance.software(job.info.target),
        "lifecycle": {"started": started, "ended": provenance.now()},
    }


def _without_paths(message: str, job: Job) -> str:
    """Replace the user's own folders in `message` by names for them, because records are published.

    Only whole paths are replaced. A relative folder of one word, such as `loss`, counts as a path only before a `/`.
    """
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises an error for a user without a home
    folders = ((job.spec.data_dir, "DATA_DIR"), (job.spec.results, "RESULTS"), (home, "~"))
    names = {spelling: name for folder, name in reversed(folders) if folder for spelling in _spellings(folder)}
    if not names:
        return message
    found = "|".join(_whole_path(spelling) for spelling in sorted(names, key=len, reverse=True))
    return re.sub(found, lambda match: names[match[0]], message)


def _spellings(folder: str) -> set[str]:
    """Return how messages may spell `folder`: as it was given, absolute, and without symbolic links."""
    spelled = {folder.rstrip("/"), str(Path(folder))}
    with suppress(OSError):  # without a working folder, only a path that is absolute already can be spelled so
        spelled |= {str(Path(folder).absolute()), str(Path(folder).resolve())}
    return {text for text in spelled if text.strip("/.~")}


def _whole_path(folder: str) -> str:
    """Return a regular expression for `folder` where it is no part of a longer name."""
    before = r"(?<![\w.~+@%-])" if folder.startswith("/") else r"(?<![\w.~+@%/-])"
    after = r"(?![\w~+@%-]|\.\w)" if "/" in folder else "(?=/)"
    return before + re.escape(folder) + after


def _with_fingerprint(board: Mapping[str, Any]) -> dict[str, Any]:
    """Add its fingerprint to the block of fields that two rows of one table must share."""
    return {"fingerprint": records.fingerprint(board), **board}


def _check_ranks_agree(run: Training, state: Mapping[str, Tensor]) -> None:
    name = run.engine.first_difference(state)
    if name is not None:
        raise AuditError(f"tensor {name} of the folded model differs between processes")


def _save_artifacts(
    folder: Path, job: Job, state: Mapping[str, Tensor], masks: Sequence[PackedMask]
) -> StoreError | None:
    """Save the network and its masks; return the error if `folder` cannot be written."""
    try:
        # Only one metadata key: safetensors writes several in no fixed order, and equal networks must give equal files.
        store.write_atomic(folder / store.WEIGHTS, save(dict(state), {"load_as": job.plan.load_as}))
        store.write_atomic(folder / store.MASK, mask_file.dumps(masks))
    except StoreError as error:
        return error
    return None


def _rescued(
    job: Job, record: dict[str, Any], state: Mapping[str, Tensor], masks: Sequence[PackedMask], problem: StoreError
) -> RunError:
    """Save a finished run outside its results folder, and return the error that says where."""

    def write(folder: Path) -> None:
        refused = _save_artifacts(folder, job, state, masks)
        if refused is not None:
            raise refused
        store.put(folder, record)

    return rescue.save_elsewhere(job, problem, write) or RunError(
        f"{problem}; the trained network could not be saved in another folder either"
    )


def _image_order(run: Training) -> dict[str, str]:
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
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "compile": job.spec.compile,
        "deterministic": run.engine.device.type == "cpu",
    }


def _layer_costs(counts: Sequence[LayerCount], usage: Usage, plain: nn.Module) -> list[LayerCost]:
    rescaled = {name for name, layer in models.prunable_layers(plain) if models.standardized(layer)}
    return [LayerCost(c.name, c.n, c.kept, c.nonzero, usage.positions[c.name], c.name in rescaled) for c in counts]


def _per_layer(layers: Sequence[LayerCost], effective: AliveCounts) -> dict[str, Any]:
    """Return the parts of the `sparsity` block about single layers and about weights that lie on a path (`alive`)."""
    alive = effective.alive
    total = None if alive is None else sum(alive.values())
    n = sum(layer.n for layer in layers)
    return {
        "layers": [layer.as_dict() | ({} if alive is None else {"alive": alive[layer.name]}) for layer in layers],
        "alive": total,
        "effective": None if total is None else (n - total) / n,
        "effective_unknown": effective.undecided,
    }


def _cost(run: Training, layers: Sequence[LayerCost], usage: Usage, plain: nn.Module) -> dict[str, Any]:
    dense = sum(layer.macs_dense for layer in layers)
    trained = cost.train_macs(dense, run.images_trained + run.state.scoring_passes)
    trained += dense * run.state.validation_passes  # forward passes only
    reference = cost.train_macs(dense, run.plan.batch_size * run.budget.total)
    weights = [layer.get_parameter("weight") for _, layer in models.prunable_layers(plain)]
    stored = cost.storage_bytes(layers, {layer.name: layer.dense.shape[0] for layer in run.layers})
    return {
        "forward_passes": run.forward_passes,
        "validations": run.state.validations,
        "train_macs": trained,
        "dense_train_macs": reference,
        "relative_train_macs": trained / reference,
        "macs_dense": dense,
        "macs_remaining": sum(layer.macs_remaining for layer in layers),
        "macs_attention": usage.attention,
        "macs_definition": cost.MACS_DEFINITION,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "bytes": {**stored, "compressed": cost.compressed_bytes(weights)},
        "storage_bits": cost.supermask_bits(layers, plain) if run.initial.frozen is not None else None,
    }


def _resources_used(run: Training) -> dict[str, Any]:
    """Return the time and memory used so far."""
    return {
        "wall_seconds": round(run.seconds, 3),
        "hook_seconds": round(run.state.hook_seconds, 3),
        "peak_memory_bytes": memory.peak_memory_bytes(run.engine.device),
    }
