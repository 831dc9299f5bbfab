"""Validation, canonical form and content hash of the run record, `run.json`. Imports no torch.

A record is a `dict` that `validate` has accepted. Until then it is untrusted, because records come from disk and
from other machines. `pruneboard.records.fields` states which values are allowed; a reader can use every field that is
listed there without checking its type again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pruneboard.errors import StoreError
from pruneboard.records.fields import (
    FIELDS,
    LAYER_FIELDS,
    MAX_NUMBER,
    REQUIRED,
    REQUIRED_IN_LAYER,
    REQUIRED_WHEN_DONE,
    FieldType,
)

Record = dict[str, Any]

MAX_VALUES = 50_000
"""Maximum number of values in a record, at any depth; a network of 1,000 layers has about 9,000."""

_MAX_DEPTH = 32  # json.dumps recurses in Python, so a record nested much deeper could be read but not written
_NESTING = (dict, list, tuple)
_MISSING = object()
_PATHS = [(path, path.split("."), field) for path, field in FIELDS.items()]


class RecordError(StoreError):
    """A record that violates the schema; the message names the path of the first wrong field."""


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
        _check(f"{path}.{key}", layer.get(key, _MISSING), field, required=key in REQUIRED_IN_LAYER)
    if layer["nonzero"] > layer["n"]:
        raise RecordError(f"{path}.nonzero must be at most n, {layer['n']}; found {layer['nonzero']}")


def _is_plainly_valid(layer: Any) -> bool:
    """Return whether a layer is obviously valid: a fast path, because thousands of records have a million layers."""
    if type(layer) is not dict:
        return False
    for key, value in layer.items():
        if type(value) is int:
            if not 0 <= value <= MAX_NUMBER or key == "name":
                return False
        elif key in LAYER_FIELDS and not (key == "name" and type(value) is str and len(value) <= 256):
            return False
    return layer.keys() >= REQUIRED_IN_LAYER and layer["nonzero"] <= layer["n"] and layer["n"] > 0


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
