"""Rules that are checked without training: the class, its options and its gates."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pruneboard import registry
from pruneboard.api import Gate, Traits
from pruneboard.coerce import convert
from pruneboard.errors import PruneboardError, UsageError
from pruneboard.testing.checks import Check, CheckFailedError, CheckSubject, check, require
from pruneboard.testing.trial import small_network


@check(trains=False)
def frozen_and_picklable(subject: CheckSubject) -> None:
    """A pruner is a frozen dataclass, and pickling and unpickling it gives an equal object with an equal hash."""
    pruner = subject.pruner
    require(registry.is_frozen(type(pruner)), "decorate the class with @dataclass(frozen=True, kw_only=True)")
    try:
        again = pickle.loads(pickle.dumps(pruner))  # noqa: S301 - pickled on the same line
        same = again == pruner and hash(again) == hash(pruner)
    except Exception as error:  # noqa: BLE001 - pickling a third-party object may raise anything
        remedy = "define the class at the top level of a module, and use options that can be pickled and hashed"
        raise CheckFailedError(f"{type(error).__name__}: {error}: {remedy}") from None
    require(same, "the unpickled pruner differs: store all state in fields that compare equal")


@check(trains=False)
def options_can_be_typed(subject: CheckSubject) -> None:
    """Every option has a type that the command line can parse, and a default value of that type."""
    pruner = subject.pruner
    try:
        types = registry.option_types(type(pruner))
        for name, kind in types.items():
            value = getattr(pruner, name)
            typed = value if isinstance(value, tuple) or value is None else str(value)
            converted = convert(typed, kind, f"option {name}")
            require(converted == value, f"option {name} reads {value!r} as {converted!r}: correct its annotation")
            require(value is not None or _readable(kind), f"option {name}: no text can be parsed as {kind}")
    except PruneboardError as error:
        raise CheckFailedError(str(error)) from None


def _readable(kind: Any) -> bool:
    choices = [str(choice) for member in get_args(kind) for choice in get_args(member)]
    return any(_reads(text, kind) for text in ("1", "0.5", "true", *choices))


def _reads(text: str, kind: Any) -> bool:
    try:
        convert(text, kind, "")
    except UsageError:
        return False
    return True


@check(trains=False)
def traits_are_constant(subject: CheckSubject) -> None:
    """`tracks` and `traits` are within their allowed ranges, and `traits` returns the same value on every call.

    `harden_at` is in [0, 1] (on the supermask track, 0 or 1). `forward_passes` is 1 or more, and with `split_batch`
    2 or more. `max_validations` is 0 or more.
    """
    pruner = subject.pruner
    known = bool(pruner.tracks) and pruner.tracks <= {"prune", "supermask"}
    require(known, f"tracks is a non-empty subset of {{'prune', 'supermask'}}; found {set(pruner.tracks)}")
    for track in sorted(pruner.tracks):
        found = pruner.traits(track)
        require(isinstance(found, Traits), f"traits() returns a pruneboard.api.Traits; found {type(found).__name__}")
        require(found == pruner.traits(track), "traits() returns another value on the second call")
        passes, share = found.forward_passes, found.harden_at
        require(type(passes) is int and passes >= 1, f"forward_passes is 1 or more; found {passes!r}")
        require(not found.split_batch or passes > 1, "split_batch needs forward_passes of 2 or more")
        most = found.max_validations
        require(type(most) is int and most >= 0, f"max_validations is an integer of 0 or more; found {most!r}")
        declared = found.writes_weights_at_harden
        require(type(declared) is bool, f"writes_weights_at_harden is True or False; found {declared!r}")
        require(0 <= share <= 1, f"harden_at is a fraction of the step budget, in [0, 1]; found {share!r}")
        fine = track == "prune" or share in (0, 1)
        require(fine, f"harden_at is 0 or 1 on the supermask track, which has no fine-tuning; found {share}")


@check(trains=False)
def gate_keeps_shape_and_dtype(subject: CheckSubject) -> None:
    """A gate maps a weight to a tensor of the same shape and dtype, in training and in evaluation mode.

    Its `kept` returns a bool tensor of the same shape.
    """
    for weight, gate in _gates(subject):
        for training in (True, False):
            gate.train(training)
            effective = gate.folded(weight) if not training else _evaluated(gate, weight)
            found, wanted = (tuple(effective.shape), effective.dtype), (tuple(weight.shape), weight.dtype)
            require(found == wanted, f"{wanted} became {found} in {'training' if training else 'evaluation'} mode")
        kept = gate.kept(weight)
        found, wanted = (tuple(kept.shape), kept.dtype), (tuple(weight.shape), torch.bool)
        require(found == wanted, f"kept() must return a tensor of {wanted}; found {found}")


@check(trains=False)
def evaluation_is_deterministic(subject: CheckSubject) -> None:
    """In evaluation mode, a gate returns the same bits on every call and does not change its state."""
    for weight, gate in _gates(subject):
        before = copy.deepcopy(gate.state_dict())
        first, second = gate.folded(weight), gate.folded(weight)
        require(torch.equal(first, second), "two calls in evaluation mode differ: draw random numbers only in training")
        after = gate.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
        require(not changed, f"a call in evaluation mode changes {', '.join(changed)}")


def _gates(subject: CheckSubject) -> Iterator[tuple[Tensor, Gate]]:
    """Yield weights of several shapes and memory formats, each with a new gate that can draw random numbers."""
    for module in small_network(tiny_layer=True).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            for laid_out in (weight, weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight):
                gate = subject.pruner.gate(laid_out)
                gate._source = _generators()
                yield laid_out, gate


def _generators() -> Callable[[], torch.Generator]:
    """Return a source of generators that differ on every call, as the harness's differ from step to step."""
    seeds = itertools.count()
    return lambda: torch.Generator().manual_seed(next(seeds))


def _evaluated(gate: Gate, weight: Tensor) -> Tensor:
    result: Tensor = gate(weight.clone().requires_grad_())
    return result.detach()


CHECKS: tuple[Check, ...] = (
    frozen_and_picklable,
    options_can_be_typed,
    traits_are_constant,
    gate_keeps_shape_and_dtype,
    evaluation_is_deterministic,
)
