"""The schema of the run record, `run.json`: fields, validation, canonical form and content hash. Imports no torch.

A record is a `dict` that `validate` has accepted. Until then it is untrusted, because records come from disk and
from other machines. `FIELDS` states for every dotted path that any reader uses which values are allowed; `REQUIRED`
and `REQUIRED_WHEN_DONE` list the paths that must exist. Unknown additional keys are allowed. A reader can therefore use
every field in `FIELDS` without checking its type again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.spec import (
    ABLATIONS,
    DISTRIBUTION_NAME,
    DISTRIBUTION_NAME_NOUN,
    METHOD_NAME,
    METHOD_NAME_NOUN,
)

SCHEMA = 1
"""Version of the record's layout; records of other versions are rejected."""

Record = dict[str, Any]

STATUSES = ("done", "diverged", "failed", "oom", "interrupted", "invalid")
CONTROLS = ("dense", "floor", "baseline")

MAX_VALUES = 50_000
"""Maximum number of values in a record, at any depth; a network of 1,000 layers has about 9,000."""

_MAX_DEPTH = 32  # json.dumps recurses in Python, so a record nested much deeper could be read but not written
_MAX_NUMBER = 10**30  # far above any count of operations, and safe to average as a float
_NESTING = (dict, list, tuple)
_MISSING = object()


class RecordError(StoreError):
    """A record that violates the schema; the message names the path of the first wrong field."""


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
    return type(value) in (int, float) and -_MAX_NUMBER <= value <= _MAX_NUMBER and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


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
"""Field of an entry of `sparsity.layers` -> the values allowed there. The first three must exist."""

_REQUIRED_IN_LAYER = frozenset({"name", "n", "nonzero"})
_PATHS = [(path, path.split("."), field) for path, field in FIELDS.items()]

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


def validate(data: object) -> Record:
    """Check that `data` is a valid record, and return it unchanged.

    In addition to types and required paths, redundant values must agree: the fingerprint with the board, the sums
    with the layers, the measured sparsity with the counts, and top-1 with the number of correct images.

    Args:
        data: a value parsed from JSON, or a record about to be written.

    Raises:
        RecordError: it violates the schema; the message names the first wrong path.
    """
    if not isinstance(data, dict):
        raise RecordError(f"a record must be a JSON object; found {_show(data)}")
    _check_size(data)
    done = data.get("status") == "done"
    for path, keys, field in _PATHS:
        if keys[-1] == "*":
            _check_values(path[:-1], _follow(data, keys[:-1]), field)
        else:
            _check(path, _follow(data, keys), field, required=path in REQUIRED or (done and path in REQUIRED_WHEN_DONE))
    if fingerprint(data["board"]) != data["board"]["fingerprint"]:
        raise RecordError("board.fingerprint does not match the fields of board: the record was edited")
    _check_layers(lookup(data, "sparsity.layers") or [])
    if done:
        _check_sums(data["sparsity"])
        for split in ("test", "validation"):
            _check_top1(data["metrics"][split], f"metrics.{split}")
    return data


def lookup(record: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return the value at a dotted path, or `default` if the path does not exist."""
    value: Any = record
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of every value that is not a non-empty object, sorted by key."""
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def canonical(record: Record) -> Record:
    """Return a copy without the fields in which two runs with equal results may differ.

    These are `lifecycle`, `hardware`, `cost.*_seconds` and `cost.peak_memory_bytes`.
    """
    kept = {key: value for key, value in record.items() if key not in ("lifecycle", "hardware")}
    cost = kept.get("cost")
    if isinstance(cost, dict):
        kept["cost"] = {k: v for k, v in cost.items() if not k.endswith("_seconds") and k != "peak_memory_bytes"}
    return copy.deepcopy(kept)


def dumps(record: Mapping[str, Any]) -> str:
    """Return the text of `run.json`: sorted keys, two spaces of indentation, a newline at the end.

    Raises:
        RecordError: a value that JSON cannot represent, such as NaN or an array.
    """
    return _json(record, indent=2) + "\n"


def content_hash(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of everything that determines a result.

    It is computed over JSON with sorted keys and without spaces. The order of the keys therefore does not matter,
    but 1 and 1.0 differ.

    Args:
        identity: the fields that determine the result; see `pruneboard.experiment.identity`.
    """
    return hashlib.sha256(_json(identity, separators=(",", ":")).encode()).hexdigest()


def fingerprint(board: Mapping[str, Any]) -> str:
    """Return the 12 hexadecimal digits that identify a board; the key `fingerprint` itself is ignored."""
    return content_hash({key: value for key, value in board.items() if key != "fingerprint"})[:12]


def format_sparsity(value: float | None) -> str:
    """Return a sparsity without rounding (`0.995`, `0`), and `dense` for None."""
    return "dense" if value is None else repr(float(value)).removesuffix(".0")


def _json(value: Mapping[str, Any], **layout: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, **layout)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"a record must be plain JSON: {error}") from None


def _follow(value: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _check(path: str, value: Any, field: FieldType, *, required: bool) -> None:
    if value is _MISSING and required:
        raise RecordError(f"{path} is missing: it must be {field.noun}")
    if value is _MISSING or (value is None and (field.nullable or not required)):
        return
    if not field.accepts(value):
        raise RecordError(f"{path} must be {field.noun}; found {_show(value)}")


def _check_values(prefix: str, block: Any, field: FieldType) -> None:
    """Check all values of an object; null is allowed."""
    for key, value in block.items() if isinstance(block, dict) else ():
        if value is not None and not field.accepts(value):
            raise RecordError(
                f"{prefix}{key if key.isidentifier() else _show(key)} must be {field.noun}; found {_show(value)}"
            )


def _check_sums(sparsity: Record) -> None:
    layers = sparsity["layers"]
    for total, part in (("prunable", "n"), ("nonzero", "nonzero")):
        if sum(layer[part] for layer in layers) != sparsity[total]:
            raise RecordError(f"sparsity.{total} must be the sum of {part} over sparsity.layers")
    n, nonzero = sparsity["prunable"], sparsity["nonzero"]
    if abs(sparsity["measured"] - (1 - nonzero / n)) > 1e-6:
        raise RecordError(f"sparsity.measured is {sparsity['measured']}, but {nonzero} of {n} weights are not zero")


def _check_layers(layers: list[Any]) -> None:
    for index, layer in enumerate(layers):
        if not _is_plainly_valid(layer):
            _check_layer(layer, f"sparsity.layers.{index}")
    names = Counter(layer["name"] for layer in layers)
    if len(names) < len(layers):
        name, count = names.most_common(1)[0]
        raise RecordError(f"sparsity.layers must have different names; {_show(name)} occurs {count} times")


def _check_layer(layer: Any, path: str) -> None:
    if not isinstance(layer, dict):
        raise RecordError(f"{path} must be an object; found {_show(layer)}")
    for key, field in LAYER_FIELDS.items():
        _check(f"{path}.{key}", layer.get(key, _MISSING), field, required=key in _REQUIRED_IN_LAYER)
    if layer["nonzero"] > layer["n"]:
        raise RecordError(f"{path}.nonzero must be at most n, {layer['n']}; found {layer['nonzero']}")


def _is_plainly_valid(layer: Any) -> bool:
    """Return whether a layer is obviously valid: a fast path, because thousands of records have a million layers."""
    if type(layer) is not dict:
        return False
    for key, value in layer.items():
        if type(value) is int:
            if not 0 <= value <= _MAX_NUMBER or key == "name":
                return False
        elif key in LAYER_FIELDS and not (key == "name" and type(value) is str and len(value) <= 256):
            return False
    return layer.keys() >= _REQUIRED_IN_LAYER and layer["nonzero"] <= layer["n"] and layer["n"] > 0


def _check_top1(measured: Record, path: str) -> None:
    correct, count = measured.get("correct"), measured.get("count")
    if correct is None or count is None:
        return
    if abs(measured["top1"] - correct / count) > 1e-6:
        raise RecordError(f"{path}.top1 is {measured['top1']}, but {correct} of {count} images are correct")


def _check_size(data: Record) -> None:
    """Check depth and number of values, level by level, because a malicious file would exhaust the recursion limit."""
    front: list[Any] = [data]
    count = 0
    for _ in range(_MAX_DEPTH):
        count += sum(map(len, front))
        if count > MAX_VALUES:
            raise RecordError(f"a record must not have more than {MAX_VALUES:,} values")
        front = [child for item in front for child in _children(item) if isinstance(child, _NESTING)]
        if not front:
            return
    raise RecordError(f"a record must not be nested deeper than {_MAX_DEPTH} levels")


def _children(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def _show(value: object) -> str:
    return reprlib.repr(value)
