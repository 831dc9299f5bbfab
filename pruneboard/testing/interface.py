"""Rules that a pruner keeps without being trained: what it is made of."""

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
from pruneboard.testing.bench import specimen
from pruneboard.testing.subject import Check, CheckFailedError, Subject, check, require


@check(trains=False)
def frozen_and_picklable(subject: Subject) -> None:
    """A pruner is a frozen dataclass, and pickling gives an equal one with an equal hash."""
    pruner = subject.pruner
    require(registry.is_frozen(type(pruner)), "decorate the class with @dataclass(frozen=True, kw_only=True)")
    try:
        again = pickle.loads(pickle.dumps(pruner))  # noqa: S301 - of our own making
        same = again == pruner and hash(again) == hash(pruner)
    except Exception as error:  # noqa: BLE001 - pickling a stranger's object may raise anything
        remedy = "define the class at the top of a module, and give it options that can be pickled and hashed"
        raise CheckFailedError(f"{type(error).__name__}: {error}: {remedy}") from None
    require(same, "after pickling it is another one: keep everything in fields that compare equal")


@check(trains=False)
def options_can_be_typed(subject: Subject) -> None:
    """Every option has a type that the command line can read, and a default that is of that type."""
    pruner = subject.pruner
    try:
        types = registry.option_types(type(pruner))
        for name, kind in types.items():
            value = getattr(pruner, name)
            typed = value if isinstance(value, tuple) or value is None else str(value)
            converted = convert(typed, kind, f"option {name}")
            require(converted == value, f"option {name} reads {value!r} as {converted!r}: annotate what it holds")
            require(value is not None or _readable(kind), f"option {name}: no text can be read as {kind}")
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
def traits_are_constant(subject: Subject) -> None:
    """Tracks and traits say the same whenever they are asked, within their ranges.

    harden_at is in [0, 1], on the supermask track 0 or 1, and there is one forward pass or more,
    two or more where they share the batch.
    """
    pruner = subject.pruner
    known = bool(pruner.tracks) and pruner.tracks <= {"prune", "supermask"}
    require(known, f"tracks is a set of 'prune' and 'supermask', not empty; found {set(pruner.tracks)}")
    for track in sorted(pruner.tracks):
        found = pruner.traits(track)
        require(isinstance(found, Traits), f"traits() returns a pruneboard.api.Traits; found {type(found).__name__}")
        require(found == pruner.traits(track), "traits() says something else when it is asked again")
        passes, share = found.forward_passes, found.harden_at
        require(type(passes) is int and passes >= 1, f"forward_passes is 1 or more; found {passes!r}")
        require(not found.split_batch or passes > 1, "split_batch shares a batch among two passes or more")
        require(0 <= share <= 1, f"harden_at is a fraction of the budget, in [0, 1]; found {share!r}")
        fine = track == "prune" or share in (0, 1)
        require(fine, f"nothing is fine-tuned on the supermask track: harden_at is 0 or 1; found {share}")


@check(trains=False)
def gate_keeps_shape_and_dtype(subject: Subject) -> None:
    """A gate turns a weight into one of the same shape and dtype, training or not, and says what it keeps as bool."""
    for weight, gate in _gates(subject):
        for training in (True, False):
            gate.train(training)
            effective = gate.folded(weight) if not training else _evaluated(gate, weight)
            found, wanted = (tuple(effective.shape), effective.dtype), (tuple(weight.shape), weight.dtype)
            require(found == wanted, f"a weight of {wanted} became {found} {'in' if training else 'outside'} training")
        kept = gate.kept(weight)
        found, wanted = (tuple(kept.shape), kept.dtype), (tuple(weight.shape), torch.bool)
        require(found == wanted, f"kept() must return what is kept as {wanted}; found {found}")


@check(trains=False)
def evaluation_is_deterministic(subject: Subject) -> None:
    """Outside training a gate gives the same bits each time, and changes none of its state."""
    for weight, gate in _gates(subject):
        before = copy.deepcopy(gate.state_dict())
        first, second = gate.folded(weight), gate.folded(weight)
        require(torch.equal(first, second), "two evaluations outside training differ: draw in training only")
        after = gate.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
        require(not changed, f"an evaluation outside training changes {', '.join(changed)}")


def _gates(subject: Subject) -> Iterator[tuple[Tensor, Gate]]:
    """Yield weights of several shapes with a fresh gate each, which can draw."""
    for module in specimen(small=True).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            for laid_out in (weight, weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight):
                gate = subject.pruner.gate(laid_out)
                gate._source = _new_draws()
                yield laid_out, gate


def _new_draws() -> Callable[[], torch.Generator]:
    """Return what gives a gate other draws each time it asks, as from one step to the next."""
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
