"""The run record, `run.json`: one plain JSON object per run. Pure data; imports no torch.

A record is a `dict` that `validate` has accepted. Records come from disk and from other machines, so they
are untrusted until then: `KINDS` says of every known path what may stand there, `ALWAYS` and `DONE` which
paths must be there. Unknown extra keys are allowed; fractions are in [0, 1], integers are integers.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.spec import ABLATIONS

SCHEMA = 1
"""Version of the record's layout; a record of another version is refused by name."""

Record = dict[str, Any]

STATUSES = ("done", "diverged", "failed", "oom", "interrupted", "invalid")
CONTROLS = ("dense", "floor", "baseline")

_DEEPEST = 32  # json.dumps recurses in Python: a record nested deeper could be read and then not written
_LARGEST = 10**30  # far above any count of operations, and safe to average as a float
_NESTING = (dict, list, tuple)
_MISSING = object()


class RecordError(StoreError):
    """A record that breaks the schema; the message names the path of the first wrong field."""


@dataclass(frozen=True)
class Kind:
    """What may stand at a path.

    Attributes:
        noun: completes "PATH is ..." in a message.
        holds: whether a value is of this kind.
        nullable: whether null is allowed where the path is required.
    """

    noun: str
    holds: Callable[[Any], bool]
    nullable: bool = False


def _is_number(value: Any) -> bool:
    # A bool is an int to Python, and NaN a float; neither is a number in a record.
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _hex(digits: int) -> Kind:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return Kind(f"{digits} hexadecimal digits", lambda v: isinstance(v, str) and bool(pattern.fullmatch(v)))


def _one_of(*names: str, nullable: bool = False) -> Kind:
    # `in` on a tuple compares, so that a list or a dict is simply not one of the names.
    return Kind(f"one of {', '.join(names)}", lambda v: isinstance(v, str) and v in names, nullable)


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("kind", "message"))


def _is_sparsity(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


_TEXT = Kind("text", lambda v: isinstance(v, str))
_NAME = Kind("a name of 1 to 256 characters", lambda v: isinstance(v, str) and 0 < len(v) <= 256)
_FLAG = Kind("true or false", lambda v: isinstance(v, bool))
_TABLE = Kind("an object", lambda v: isinstance(v, dict))
_LIST = Kind("a list", lambda v: isinstance(v, list))
_COUNT = Kind("a whole number of 0 or more", _is_count)
_POSITIVE = Kind("a whole number of 1 or more", lambda v: _is_count(v) and v > 0)
_NUMBER = Kind("a finite number", _is_number)
_AMOUNT = Kind("a finite number of 0 or more", lambda v: _is_number(v) and v >= 0)
_FRACTION = Kind("a fraction in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
_SHA256 = _hex(64)


def _on(split: str) -> dict[str, Kind]:
    kinds = {"top1": _FRACTION, "top5": _FRACTION, "worst_class_top1": _FRACTION, "loss": _NUMBER}
    kinds |= {"correct": _COUNT, "count": _POSITIVE}
    return {split: _TABLE} | {f"{split}.{key}": kind for key, kind in kinds.items()}


KINDS: dict[str, Kind] = {
    "schema": Kind(f"{SCHEMA}, the layout this pruneboard reads", lambda v: type(v) is int and v == SCHEMA),
    "rules": _POSITIVE,
    "hash": _SHA256,
    "status": _one_of(*STATUSES),
    "error": Kind("null or an object with the texts kind and message", _is_error, nullable=True),
    "track": _one_of("prune", "supermask"),
    "board": _TABLE,
    "board.fingerprint": _hex(12),
    "method": _TABLE,
    "method.name": _NAME,
    "method.distribution": _NAME,
    "method.version": _NAME,
    "method.options": _TABLE,
    "method.ablation": _one_of(*ABLATIONS, nullable=True),
    "method.traits": _TABLE,
    "method.traits.hits_target": _FLAG,
    "method.traits.forward_passes": _POSITIVE,
    "method.traits.split_batch": _FLAG,
    "method.traits.harden_at": _FRACTION,
    "method.traits.control": _one_of(*CONTROLS, nullable=True),
    "model": _TABLE,
    "model.name": _NAME,
    "model.create_args": _TABLE,
    "model.parameters": _COUNT,
    "model.initial_sha256": _SHA256,
    "tuning": _TABLE,
    "tuning.trials": _COUNT,
    "tuning.source": _TEXT,
    "data": _TABLE,
    "data.name": _NAME,
    "data.classes": _POSITIVE,
    "data.train": _COUNT,
    "data.validation": _COUNT,
    "data.test": _COUNT,
    "data.order_sha256": _TABLE,
    "budget": _TABLE,
    "budget.steps": _COUNT,
    "seed": _COUNT,
    "seeds": _TABLE,
    "engine": _TABLE,
    "hardware": _TABLE,
    "software": _TABLE,
    "sparsity": _TABLE,
    "sparsity.target": Kind("null or a fraction in [0, 1)", _is_sparsity, nullable=True),
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
    "sparsity.collapsed": Kind("a list of names", lambda v: isinstance(v, list) and all(map(_TEXT.holds, v))),
    "metrics": _TABLE,
    **_on("metrics.test"),
    **_on("metrics.validation"),
    "metrics.best_validation": _TABLE,
    "metrics.best_validation.top1": _FRACTION,
    "cost": _TABLE,
    "cost.forward_passes": _COUNT,
    "cost.train_macs": _COUNT,
    "cost.dense_train_macs": _COUNT,
    "cost.relative_train_macs": _AMOUNT,
    "cost.macs_dense": _COUNT,
    "cost.macs_remaining": _COUNT,
    "cost.macs_attention": _COUNT,
    "cost.macs_definition": _TEXT,
    "cost.parameters": _COUNT,
    "cost.bytes": _TABLE,
    "cost.bytes.compressed": _COUNT,
    "cost.storage_bits": _TABLE,
    "cost.wall_seconds": _AMOUNT,
    "cost.hook_seconds": _AMOUNT,
    "cost.peak_memory_bytes": _COUNT,
    "weights_sha256": _SHA256,
    "mask_sha256": _SHA256,
    "lifecycle": _TABLE,
}
"""Path -> what may stand there, in the order in which faults are reported."""

_PATHS = [(path, path.split("."), kind) for path, kind in KINDS.items()]

ALWAYS = frozenset(
    {"schema", "rules", "hash", "status", "error", "track", "board", "board.fingerprint", "method", "method.name"}
    | {"method.distribution", "method.version", "method.options", "method.traits", "method.traits.hits_target"}
    | {"method.traits.control", "model", "model.name", "data", "data.name", "seed", "sparsity", "sparsity.target"}
)
"""Paths that every record has, whatever its status."""

DONE = frozenset(
    {"model.initial_sha256", "sparsity.measured", "sparsity.nonzero", "sparsity.kept_zero", "sparsity.prunable"}
    | {"sparsity.layers", "metrics.test.top1", "metrics.validation.top1", "cost.forward_passes", "cost.train_macs"}
    | {"cost.wall_seconds", "cost.peak_memory_bytes"}
)
"""Paths that a finished record has as well."""


def validate(data: object) -> Record:
    """Return `data` as a record, or say what is wrong with it.

    Besides kinds and presence, numbers that say the same thing twice must agree: the fingerprint and the
    board, the layers and their sums, the measured sparsity and the counts, top-1 and the correct images.

    Args:
        data: what `json` made of a file, or what a run is about to write.

    Raises:
        RecordError: it breaks the schema; the message names the first wrong path.
    """
    if not isinstance(data, dict):
        raise RecordError(f"a record is a JSON object; found {_show(data)}")
    if _deeper_than(data, _DEEPEST):
        raise RecordError(f"a record nests at most {_DEEPEST} levels; this one goes deeper")
    done = data.get("status") == "done"
    for path, keys, kind in _PATHS:
        _check(path, _follow(data, keys), kind, required=path in ALWAYS or (done and path in DONE))
    if fingerprint(data["board"]) != data["board"]["fingerprint"]:
        raise RecordError("board.fingerprint is not that of the board's fields: the record was edited or mixed up")
    for index, layer in enumerate(lookup(data, "sparsity.layers") or []):
        _check_layer(layer, f"sparsity.layers.{index}")
    if done:
        _check_sums(data["sparsity"])
        for split in ("test", "validation"):
            _check_top1(data["metrics"][split], f"metrics.{split}")
    return data


def lookup(record: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return what stands at a dotted path, or `default` where the path leads nowhere."""
    value: Any = record
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of everything that is no object with something in it, by rising key."""
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def canonical(record: Record) -> Record:
    """Return a copy without what two equal runs may differ in.

    Stripped: `lifecycle`, `hardware`, `cost.*_seconds`, `cost.peak_memory_bytes`.
    """
    kept = {key: value for key, value in record.items() if key not in ("lifecycle", "hardware")}
    cost = kept.get("cost")
    if isinstance(cost, dict):
        kept["cost"] = {k: v for k, v in cost.items() if not k.endswith("_seconds") and k != "peak_memory_bytes"}
    return copy.deepcopy(kept)


def dumps(record: Mapping[str, Any]) -> str:
    """Return the text of `run.json`: sorted keys, two spaces, a newline at the end.

    Raises:
        RecordError: a value that JSON does not have, such as NaN or an array.
    """
    return _json(record, indent=2) + "\n"


def content_hash(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of what decides a result.

    Taken over JSON with sorted keys and no spaces, so the order of keys does not matter; 1 and 1.0 differ.
    """
    return hashlib.sha256(_json(identity, separators=(",", ":")).encode()).hexdigest()


def fingerprint(board: Mapping[str, Any]) -> str:
    """Return the 12 hexadecimal digits that name a board; its own key `fingerprint` does not count."""
    return content_hash({key: value for key, value in board.items() if key != "fingerprint"})[:12]


def format_sparsity(value: float | None) -> str:
    """Return a sparsity exactly as it was asked for (`0.995`, `0`), and `dense` where there is none."""
    return "dense" if value is None else repr(float(value)).removesuffix(".0")


def _json(value: Mapping[str, Any], **layout: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, **layout)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"not plain JSON: {error}") from None


def _follow(value: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _check(path: str, value: Any, kind: Kind, *, required: bool) -> None:
    if value is _MISSING and required:
        raise RecordError(f"{path} is missing: it is {kind.noun}")
    if value is _MISSING or (value is None and (kind.nullable or not required)):
        return
    if not kind.holds(value):
        raise RecordError(f"{path} is {kind.noun}; found {_show(value)}")


def _check_sums(sparsity: Record) -> None:
    layers = sparsity["layers"]
    for total, part in (("prunable", "n"), ("nonzero", "nonzero")):
        if sum(layer[part] for layer in layers) != sparsity[total]:
            raise RecordError(f"sparsity.{total} is not the sum of {part} over sparsity.layers")
    n, nonzero = sparsity["prunable"], sparsity["nonzero"]
    if abs(sparsity["measured"] - (1 - nonzero / n)) > 1e-6:
        raise RecordError(f"sparsity.measured is {sparsity['measured']}, but {nonzero} of {n} weights are not zero")


def _check_layer(layer: Any, path: str) -> None:
    if isinstance(layer, dict) and _is_sound(layer.get("name"), layer.get("n"), layer.get("nonzero")):
        _check_counts(layer, path)
        return
    if not isinstance(layer, dict):
        raise RecordError(f"{path} is an object; found {_show(layer)}")
    for key, kind in (("name", _TEXT), ("n", _POSITIVE), ("nonzero", _COUNT)):
        if not kind.holds(layer.get(key)):
            raise RecordError(f"{path}.{key} is {kind.noun}; found {_show(layer.get(key))}")
    if layer["nonzero"] > layer["n"]:
        raise RecordError(f"{path}.nonzero is at most n, {layer['n']}; found {layer['nonzero']}")


def _check_counts(layer: Record, path: str) -> None:
    for key in ("alive", "macs_dense", "macs_remaining"):
        _check(f"{path}.{key}", layer.get(key, _MISSING), _COUNT, required=False)


def _is_sound(name: Any, n: Any, nonzero: Any) -> bool:
    """Answer at once for nearly every layer there is: a board of thousands of records has a million."""
    return type(name) is str and type(n) is int and type(nonzero) is int and 0 <= nonzero <= n and 0 < n <= _LARGEST


def _check_top1(measured: Record, path: str) -> None:
    correct, count = measured.get("correct"), measured.get("count")
    if correct is None or count is None:
        return
    if abs(measured["top1"] - correct / count) > 1e-6:
        raise RecordError(f"{path}.top1 is {measured['top1']}, but {correct} of {count} images are correct")


def _deeper_than(data: object, levels: int) -> bool:
    # Level by level instead of by recursion, which is what a hostile file would exhaust.
    front: list[Any] = [data]
    for _ in range(levels - 1):
        front = [child for item in front for child in _children(item) if isinstance(child, _NESTING)]
        if not front:
            return False
    return any(_children(item) for item in front)


def _children(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def _show(value: object) -> str:
    return reprlib.repr(value)
