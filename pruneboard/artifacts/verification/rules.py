"""The values of a record that its other values determine, as one table of rules. Imports no torch.

Each formula repeats one of `experiment.identity`, `experiment.outcome`, `experiment.audit` or `models.cost`, written
independently on purpose: a check that called the same code could not find an error in it. A rule applies only if the
record has all values that it needs; records of failed runs and of earlier versions have fewer.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pruneboard.draws import key
from pruneboard.records.schema import Record, lookup

KEPT_ZERO_TOLERANCE = 1e-4
"""Largest share of kept positions that may be 0.0. A copy of the bound in `experiment.audit`, which imports torch."""

MALFORMED = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""Exceptions that a formula raises if a value of the record is not what a run writes there."""

_MISSING = object()


@dataclass(frozen=True)
class Rule:
    """One value of a record that other values determine.

    Attributes:
        check: name of the check that the rule belongs to.
        path: path of the value in the record.
        needs: paths of the values that determine it.
        expected: computes the value from those at `needs`; if `bounds`, its range as (lowest, highest).
        bounds: whether only a range is known.
    """

    check: str
    path: str
    needs: tuple[str, ...]
    expected: Callable[..., Any]
    bounds: bool = False

    def problem(self, record: Record) -> str | None:
        """Return a message if the value is wrong; None if it is right or the rule does not apply."""
        recorded, *given = (lookup(record, path, _MISSING) for path in (self.path, *self.needs))
        if recorded is _MISSING or any(value is _MISSING for value in given):
            return None
        try:
            return self._compare(recorded, self.expected(*given))
        except MALFORMED as error:
            return f"{self.path} cannot be checked against {self._sources}: {type(error).__name__}"

    @property
    def _sources(self) -> str:
        return ", ".join(self.needs) or "its range"

    def _compare(self, recorded: Any, expected: Any) -> str | None:
        if _within(recorded, *expected) if self.bounds else _same(recorded, expected):
            return None
        found = f"{_shown(expected[0])} to {_shown(expected[1])}" if self.bounds else _shown(expected)
        return f"{self.path} is {_shown(recorded)} in the record, but {found} according to {self._sources}"


def _same(recorded: Any, expected: Any) -> bool:
    if isinstance(expected, float) and type(recorded) in (int, float):
        return math.isclose(recorded, expected, rel_tol=1e-9, abs_tol=1e-12)
    return type(recorded) is type(expected) and bool(recorded == expected)


def _within(recorded: Any, lowest: float, highest: float | None) -> bool:
    return bool(lowest <= recorded and (highest is None or recorded <= highest))


def _shown(value: Any) -> str:
    return "any number" if value is None else reprlib.repr(value)


def _product(*numbers: Any) -> Any:
    # A string times an integer is a longer string: an untrusted record could fill the memory.
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a factor is not a number")
    return math.prod(numbers)


def _sum(part: str) -> Callable[[list[Record]], int]:
    return lambda layers: sum(layer[part] for layer in layers)


def _equal(value: Any) -> Any:
    return value


def _without_name(recipe: Record) -> Record:
    return {name: value for name, value in recipe.items() if name != "name"}


def _multiply_adds(layers: list[Record], part: str = "n") -> int:
    return sum(_product(layer[part], layer["positions"]) for layer in layers)


def _kept_of(prunable: int, target: float | None, control: str | None) -> tuple[int, int]:
    # The rounding of scores.kept_of. A method that ran without a requested sparsity may have used its own default.
    if target is None and control != "dense":
        return 0, prunable
    keep = prunable - round((target or 0.0) * prunable)
    return keep, keep


def _kept(hits_target: bool, keep: int, prunable: int) -> tuple[int, int]:  # noqa: FBT001 - a value of the record
    return (keep, keep) if hits_target else (0, prunable)


def _train_macs(
    track: str, dense: int, traits: Record, budget: Record, validations: int = 0, images: int = 0
) -> tuple[int, None]:
    # A lower bound: scoring passes before the first step and batch statistics for a validation come on top, and the
    # record does not state their number.
    soft_steps, total = budget["harden_step"], budget["steps"]
    per_step = 1 if traits.get("split_batch") is True else traits["forward_passes"]
    passes = _product(soft_steps, per_step) + total - soft_steps
    steps = 0 if track == "supermask" and not soft_steps else _product(3, dense, budget["global_batch"], passes)
    return steps + _product(dense, validations, images), None


def _mask_bits(layers: list[Record]) -> tuple[float, float]:
    entropy = sum(math.ceil(_log2_choices(layer["n"], layer["kept"])) for layer in layers)
    return entropy - len(layers), entropy + len(layers)  # libm's lgamma rounds differently from platform to platform


def _log2_choices(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def _copies(check: str, **sources: str) -> list[Rule]:
    """Return rules for fields that repeat the value at another path; `name` is `board.name`, `a__b` is `a.b`."""
    return [
        Rule(check, path.replace("__", ".") if "__" in path else f"board.{path}", (source,), _equal)
        for path, source in sources.items()
    ]


def _layer(layer: Record) -> Record:
    """Return a layer with every derived value recomputed from its counts; earlier records have fewer of them."""
    expected = dict(layer)
    if "alive" in layer:
        expected["alive"] = min(max(layer["alive"], 0), layer["nonzero"])
    if "macs_dense" in layer:
        expected["macs_dense"] = _product(layer["n"], layer["positions"])
    if "macs_remaining" in layer:
        sparse = _product(layer["nonzero"], layer["positions"])
        dense = layer["macs_remaining"] == expected["macs_dense"]  # a layer that standardizes its weight has no zeros
        expected["macs_remaining"] = expected["macs_dense"] if dense else sparse
    return expected


def _alive(layers: list[Record]) -> int | None:
    return sum(layer["alive"] for layer in layers) if any("alive" in layer for layer in layers) else None


_LAYERS = ("sparsity.layers",)

RULES: tuple[Rule, ...] = (
    Rule("record.seeds", "seeds", ("seed", "seeds"), lambda seed, seeds: {name: key(seed, name) for name in seeds}),
    *_copies(
        "record.board",
        rules="rules",
        track="track",
        model="model.load_as",
        stem="model.stem",
        create_args="model.create_args",
        init="model.init",
        data="data.name",
        data_sha256="data.sha256",
        limit_train="data.limit_train",
        steps="budget.steps",
        global_batch="budget.global_batch",
        norm_batch="budget.norm_batch",
        precision="engine.precision",
        prunable="sparsity.prunable",
    ),
    Rule("record.board", "board.recipe", ("recipe",), _without_name),
    Rule("record.board", "board.torch", ("software.torch",), lambda version: ".".join(version.split(".")[:2])),
    *_copies(
        "record.budget",
        budget__limit_train="data.limit_train",
        budget__epochs="recipe.epochs",
        budget__global_batch="recipe.batch_size",
        data__augment="recipe.augment",
        data__image_size="recipe.image_size",
    ),
    Rule("record.budget", "budget.steps_per_epoch", ("data.train", "recipe.batch_size"), lambda n, size: n // size),
    Rule("record.budget", "budget.steps", ("budget.epochs", "budget.steps_per_epoch"), _product),
    Rule(
        "record.budget",
        "budget.harden_step",
        ("method.traits.harden_at", "budget.steps"),
        lambda *factors: round(_product(*factors)),
    ),
    Rule(
        "record.budget",
        "budget.global_batch",
        ("engine.micro_batch", "engine.accumulation", "engine.world_size"),
        _product,
    ),
    Rule("record.sparsity", "sparsity.kept", _LAYERS, _sum("kept")),
    Rule(
        "record.sparsity", "sparsity.kept_zero", ("sparsity.kept", "sparsity.nonzero"), lambda kept, left: kept - left
    ),
    Rule(
        "record.sparsity",
        "sparsity.kept_zero",
        ("sparsity.kept",),
        lambda kept: (0, KEPT_ZERO_TOLERANCE * kept),
        bounds=True,
    ),
    Rule(
        "record.sparsity",
        "sparsity.keep",
        ("sparsity.prunable", "sparsity.target", "method.traits.control"),
        _kept_of,
        bounds=True,
    ),
    Rule(
        "record.sparsity",
        "sparsity.kept",
        ("method.traits.hits_target", "sparsity.keep", "sparsity.prunable"),
        _kept,
        bounds=True,
    ),
    Rule(
        "record.sparsity",
        "sparsity.collapsed",
        _LAYERS,
        lambda layers: [layer["name"] for layer in layers if not layer["nonzero"]],
    ),
    Rule(
        "record.sparsity",
        "sparsity.whole_model",
        ("sparsity.prunable", "sparsity.nonzero", "model.parameters"),
        lambda n, left, parameters: (n - left) / parameters,
    ),
    Rule("record.sparsity", "sparsity.layers", _LAYERS, lambda layers: [_layer(layer) for layer in layers]),
    Rule("record.sparsity", "sparsity.alive", _LAYERS, _alive),
    Rule(
        "record.sparsity",
        "sparsity.effective",
        ("sparsity.prunable", "sparsity.alive"),
        lambda n, alive: None if alive is None else (n - alive) / n,
    ),
    *(
        rule
        for split in ("test", "validation")
        for rule in (
            Rule("record.metrics", f"metrics.{split}.count", (f"data.{split}",), _equal),
            Rule("record.metrics", f"metrics.{split}.correct", (f"data.{split}",), lambda n: (0, n), bounds=True),
            Rule("record.metrics", f"metrics.{split}.loss", (), lambda: (0, None), bounds=True),
            Rule(
                "record.metrics",
                f"metrics.{split}.worst_class_top1",
                (f"metrics.{split}.top1",),
                lambda top1: (0, top1 + 1e-9),
                bounds=True,
            ),
        )
    ),
    Rule("record.cost", "cost.macs_dense", _LAYERS, _multiply_adds),
    Rule(
        "record.cost",
        "cost.macs_remaining",  # more than those of non-zero weights if a layer standardizes its weight
        ("sparsity.layers", "cost.macs_dense"),
        lambda layers, dense: (_multiply_adds(layers, "nonzero"), dense),
        bounds=True,
    ),
    Rule("record.cost", "cost.parameters", ("model.parameters",), _equal),
    Rule("record.cost", "cost.forward_passes", ("method.traits.forward_passes",), _equal),
    Rule(
        "record.cost",
        "cost.dense_train_macs",
        ("cost.macs_dense", "budget.global_batch", "budget.steps"),
        lambda *factors: _product(3, *factors),
    ),
    Rule(
        "record.cost",
        "cost.train_macs",
        ("track", "cost.macs_dense", "method.traits", "budget"),
        _train_macs,
        bounds=True,
    ),
    Rule(
        "record.cost",
        "cost.train_macs",
        ("track", "cost.macs_dense", "method.traits", "budget", "cost.validations", "data.validation"),
        _train_macs,
        bounds=True,
    ),
    Rule(
        "record.cost",
        "cost.validations",
        ("method.traits.max_validations",),
        lambda most: (0, most),
        bounds=True,
    ),
    Rule(
        "record.cost",
        "cost.relative_train_macs",
        ("cost.train_macs", "cost.dense_train_macs"),
        lambda trained, dense: trained / dense,
    ),
    Rule("record.cost", "cost.bytes.dense", ("sparsity.prunable",), lambda n: 4 * n),
    Rule(
        "record.cost",
        "cost.bytes.bitmask",
        _LAYERS,
        lambda layers: sum(-(-layer["n"] // 8) + 4 * layer["nonzero"] for layer in layers),
    ),
    Rule("record.cost", "cost.storage_bits.mask", _LAYERS, _mask_bits, bounds=True),
    Rule(
        "record.cost",
        "cost.storage_bits.counts",
        _LAYERS,
        lambda layers: sum(layer["n"].bit_length() for layer in layers),
    ),
    Rule(
        "record.cost",
        "cost.storage_bits.total",
        ("cost.storage_bits",),
        lambda bits: sum(value for name, value in bits.items() if name != "total"),
    ),
    Rule(
        "record.lifecycle",
        "lifecycle.resumes",
        ("lifecycle.attempts",),
        lambda attempts: len(attempts) - 1,
    ),
    Rule(
        "record.lifecycle",
        "error",
        ("status", "error"),
        lambda status, error: None if status == "done" else error,
    ),
)
"""All rules, with the checks in the order in which they are reported."""
