"""The fields of the run record, `run.json`: which values are allowed at every path that a reader uses.

`FIELDS` states for every dotted path that any reader uses which values are allowed, `LAYER_FIELDS` the same for an
entry of `sparsity.layers`; `REQUIRED` and `REQUIRED_WHEN_DONE` list the paths that must exist. Unknown additional keys
are allowed. `pruneboard.records.schema` checks a record against them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pruneboard.spec import (
    ABLATIONS,
    DISTRIBUTION_NAME,
    DISTRIBUTION_NAME_NOUN,
    METHOD_NAME,
    METHOD_NAME_NOUN,
)

SCHEMA = 1
"""Version of the record's layout; records of other versions are rejected."""

STATUSES = ("done", "diverged", "failed", "oom", "interrupted", "invalid")
CONTROLS = ("dense", "floor", "baseline")

MAX_NUMBER = 10**30
"""Maximum of the absolute value of a number: far above any count of operations, and safe to average as a float."""


@dataclass(frozen=True)
class FieldType:
    """The values that are allowed at a path.

    Attributes:
        noun: completes "PATH must be ..." in a message.
        accepts: returns whether a value is allowed.
        nullable: whether null is allowed although the path is required.
    """

    noun: str
    accepts: Callable[[Any], bool]
    nullable: bool = False


def _is_number(value: Any) -> bool:
    # In Python a bool is an int and NaN is a float; neither is a number in a record.
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _hex(digits: int) -> FieldType:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return FieldType(f"{digits} hexadecimal digits", lambda v: isinstance(v, str) and bool(pattern.fullmatch(v)))


def _one_of(*names: str, nullable: bool = False) -> FieldType:
    return FieldType(f"one of {', '.join(names)}", lambda v: isinstance(v, str) and v in names, nullable)


def _matching(pattern: re.Pattern[str], noun: str) -> FieldType:
    text = f"1 to 256 of {noun}"
    return FieldType(text, lambda v: isinstance(v, str) and len(v) <= 256 and bool(pattern.fullmatch(v)))


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("kind", "message"))


def _is_left_out(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= 16 and all(map(_is_ending_with_count, value.items()))


def _is_ending_with_count(item: tuple[Any, Any]) -> bool:
    name, count = item
    return bool(re.fullmatch(r"\.[a-z0-9]{1,15}|other", str(name))) and _is_count(count) and count > 0


def _is_sparsity(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _list_of(noun: str, accepts: Callable[[Any], bool]) -> FieldType:
    return FieldType(f"a list of {noun}", lambda v: isinstance(v, list) and all(map(accepts, v)))


_TEXT = FieldType("text", lambda v: isinstance(v, str))
_NAME = FieldType("a name of 1 to 256 characters", lambda v: isinstance(v, str) and 0 < len(v) <= 256)
_FLAG = FieldType("true or false", lambda v: isinstance(v, bool))
_TABLE = FieldType("an object", lambda v: isinstance(v, dict))
_LIST = FieldType("a list", lambda v: isinstance(v, list))
_COUNT = FieldType("a whole number of 0 or more", _is_count)
_POSITIVE = FieldType("a whole number of 1 or more", lambda v: _is_count(v) and v > 0)
_NUMBER = FieldType("a finite number", _is_number)
_AMOUNT = FieldType("a finite number of 0 or more", lambda v: _is_number(v) and v >= 0)
_FRACTION = FieldType("a fraction in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
_SHA256 = _hex(64)


def _split_fields(split: str) -> dict[str, FieldType]:
    fields = {"top1": _FRACTION, "top5": _FRACTION, "worst_class_top1": _FRACTION, "loss": _NUMBER}
    fields |= {"correct": _COUNT, "count": _POSITIVE}
    return {split: _TABLE} | {f"{split}.{key}": field for key, field in fields.items()}


FIELDS: dict[str, FieldType] = {
    "schema": FieldType(f"{SCHEMA}, the version that this pruneboard reads", lambda v: type(v) is int and v == SCHEMA),
    "rules": _POSITIVE,
    "hash": _SHA256,
    "status": _one_of(*STATUSES),
    "error": FieldType("null or an object with the texts `kind` and `message`", _is_error, nullable=True),
    "track": _one_of("prune", "supermask"),
    "board": _TABLE,
    "board.fingerprint": _hex(12),
    "method": _TABLE,
    "method.name": _matching(METHOD_NAME, METHOD_NAME_NOUN),
    "method.distribution": _matching(DISTRIBUTION_NAME, DISTRIBUTION_NAME_NOUN),
    "method.version": _NAME,
    "method.options": _TABLE,
    "method.ablation": _one_of(*ABLATIONS, nullable=True),
    "method.traits": _TABLE,
    "method.traits.hits_target": _FLAG,
    "method.traits.forward_passes": _POSITIVE,
    "method.traits.split_batch": _FLAG,
    "method.traits.harden_at": _FRACTION,
    "method.traits.max_validations": _COUNT,
    "method.traits.writes_weights_at_harden": _FLAG,
    "method.traits.control": _one_of(*CONTROLS, nullable=True),
    "model": _TABLE,
    "model.name": _NAME,
    "model.load_as": _NAME,
    "model.stem": _NAME,
    "model.init": _NAME,
    "model.create_args": _TABLE,
    "model.parameters": _COUNT,
    "model.initial_sha256": _SHA256,
    "tuning": _TABLE,
    "tuning.trials": _COUNT,
    "tuning.source": _TEXT,
    "data": _TABLE,
    "data.name": _NAME,
    "data.classes": _POSITIVE,
    "data.majority": _FRACTION,
    "data.train": _COUNT,
    "data.validation": _COUNT,
    "data.test": _COUNT,
    "data.image_size": _POSITIVE,
    "data.limit_train": _COUNT,
    "data.augment": _TEXT,
    "data.sha256": _TEXT,
    "data.split_sha256": _TEXT,
    "data.order_sha256": _TABLE,
    "data.left_out": FieldType("an object of at most 16 file endings and their numbers of files", _is_left_out),
    "data.order_sha256.*": _TEXT,
    "data.mean": _list_of("finite numbers", _is_number),
    "data.std": _list_of("positive numbers", lambda v: _is_number(v) and v > 0),
    "recipe": _TABLE,
    "recipe.name": _TEXT,
    "recipe.epochs": _COUNT,
    "recipe.batch_size": _POSITIVE,
    "recipe.val_fraction": _FRACTION,
    "budget": _TABLE,
    **{f"budget.{key}": _COUNT for key in ("epochs", "steps", "steps_per_epoch", "harden_step")},
    **{f"budget.{key}": _COUNT for key in ("global_batch", "norm_batch", "limit_train")},
    "seed": _COUNT,
    "seeds": _TABLE,
    "seeds.*": _COUNT,
    "engine": _TABLE,
    "engine.deepspeed": _TEXT,
    "engine.precision": _TEXT,
    **{f"engine.{key}": _COUNT for key in ("zero", "world_size", "micro_batch", "accumulation")},
    **{f"engine.{key}": _FLAG for key in ("tf32", "compile", "deterministic")},
    "hardware": _TABLE,
    **{f"hardware.{key}": _TEXT for key in ("device", "gpu", "processor", "cuda", "cudnn", "nccl", "driver")},
    **{f"hardware.{key}": _COUNT for key in ("cores", "threads")},
    "software": _TABLE,
    **{f"software.{key}": _TEXT for key in ("python", "pruneboard", "torch", "torchvision", "timm", "deepspeed")},
    **{f"software.{key}": _TEXT for key in ("numpy", "commit")},
    "software.dirty": _FLAG,
    "software.code": _TABLE,
    "software.code.*": _TEXT,
    "sparsity": _TABLE,
    "sparsity.target": FieldType("null or a fraction in [0, 1)", _is_sparsity, nullable=True),
    "sparsity.measured": _FRACTION,
    "sparsity.prunable": _POSITIVE,
    "sparsity.keep": _COUNT,
    "sparsity.kept": _COUNT,
    "sparsity.nonzero": _COUNT,
    "sparsity.kept_zero": _COUNT,
    "sparsity.whole_model": _FRACTION,
    "sparsity.alive": _COUNT,
    "sparsity.effective": _FRACTION,
    "sparsity.effective_unknown": _TEXT,
    "sparsity.layers": _LIST,
    "sparsity.left_out": _TABLE,
    "sparsity.collapsed": _list_of("names", _TEXT.accepts),
    "metrics": _TABLE,
    **_split_fields("metrics.test"),
    **_split_fields("metrics.validation"),
    "metrics.best_validation": _TABLE,
    "metrics.best_validation.top1": _FRACTION,
    "metrics.best_validation.epoch": _COUNT,
    "cost": _TABLE,
    "cost.forward_passes": _COUNT,
    "cost.validations": _COUNT,
    "cost.train_macs": _COUNT,
    "cost.dense_train_macs": _COUNT,
    "cost.relative_train_macs": _AMOUNT,
    "cost.macs_dense": _COUNT,
    "cost.macs_remaining": _COUNT,
    "cost.macs_attention": _COUNT,
    "cost.macs_definition": _TEXT,
    "cost.parameters": _COUNT,
    "cost.bytes": _TABLE,
    "cost.bytes.*": _COUNT,
    "cost.storage_bits": _TABLE,
    "cost.storage_bits.*": _COUNT,
    "cost.wall_seconds": _AMOUNT,
    "cost.hook_seconds": _AMOUNT,
    "cost.peak_memory_bytes": _COUNT,
    "weights_sha256": _SHA256,
    "mask_sha256": _SHA256,
    "lifecycle": _TABLE,
    "lifecycle.started": _TEXT,
    "lifecycle.ended": _TEXT,
    "lifecycle.resumes": _COUNT,
    "lifecycle.attempts": _list_of("objects", _TABLE.accepts),
}
"""Dotted path -> the values allowed there, in the order in which errors are reported; `*` is every key of an object.

The fields of `sparsity.layers[*]` are in `LAYER_FIELDS`. Apart from the paths above, the contents of `board`, `recipe`,
`method.options`, `model.create_args` and `sparsity.left_out` are arbitrary: readers print or compare them as they are.
"""

LAYER_FIELDS: dict[str, FieldType] = {
    "name": FieldType("text of at most 256 characters", lambda v: isinstance(v, str) and len(v) <= 256),
    "n": _POSITIVE,
    "nonzero": _COUNT,
    "kept": _COUNT,
    "positions": _COUNT,
    "alive": _COUNT,
    "macs_dense": _COUNT,
    "macs_remaining": _COUNT,
}
"""Field of an entry of `sparsity.layers` -> the values allowed there."""

REQUIRED_IN_LAYER = frozenset({"name", "n", "nonzero"})
"""The fields that every entry of `sparsity.layers` has."""

REQUIRED = frozenset(
    {"schema", "rules", "hash", "status", "error", "track", "board", "board.fingerprint", "method", "method.name"}
    | {"method.distribution", "method.version", "method.options", "method.traits", "method.traits.hits_target"}
    | {"method.traits.control", "model", "model.name", "data", "data.name", "seed", "sparsity", "sparsity.target"}
)
"""Paths that every record has, whatever its status."""

REQUIRED_WHEN_DONE = frozenset(
    {"model.initial_sha256", "sparsity.measured", "sparsity.nonzero", "sparsity.kept_zero", "sparsity.prunable"}
    | {"sparsity.layers", "metrics.test.top1", "metrics.validation.top1", "cost.forward_passes", "cost.train_macs"}
    | {"cost.wall_seconds", "cost.peak_memory_bytes"}
)
"""Paths that a finished record has as well."""
