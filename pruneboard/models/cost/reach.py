"""Which elements of a network's tensors a path from the input leads to, and from which one leads to the output.

Two kinds of tensors go through the network in the place of its own. A `Flow` stands for activations: positive where a
path from the input arrives, 0 elsewhere. A `Kernel` stands for a weight: positive where it is not 0. Each operation
that meets one is replaced by what it does to paths (`effective` says which and why); operations on other tensors, the
network's constants, run as they are. All that is computed are sums and products of numbers of 0 or more, and autograd
follows the paths back: gradients are positive where one leads to the output. After each mixing operation, and on the
way back before it, positive numbers become 1: the number of paths, which grows like a power of the depth, never
overflows. An operation without a rule raises, and so does whatever would lose a path unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, resolve_name

from pruneboard.models.cost.kinds import Flow, Kernel, Step, Tracked, UndecidedError, tensors
from pruneboard.models.cost.rules import ASKED, ELEMENTWISE, FOR_KERNELS, LINEAR, RULES


class Following(TorchFunctionMode):
    """While it is entered, what meets a `Flow` or a `Kernel` does to it what it does to paths."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what the rule for `func` says.

        Raises:
            UndecidedError: there is none, or it covers another use of the function.
        """
        kwargs = kwargs or {}
        operands = list(tensors((*args, *kwargs.values())))
        if not any(isinstance(operand, Tracked) for operand in operands):
            return func(*args, **kwargs)
        called = (resolve_name(func) or str(func)).removesuffix(".__get__").rpartition(".")[2]
        name = called.strip("_")
        if name in ASKED:
            return func(*args, **kwargs)
        if kwargs.get("out") is not None or any(_is_stray(operand) for operand in operands):
            raise UndecidedError(f"it uses {called} in a way that hides where its result comes from")
        rule = RULES.get(_spelled(called, name))
        if rule is None:
            raise UndecidedError(f"it uses {called}, of which it is not known how paths go through it")
        if name not in FOR_KERNELS and any(isinstance(operand, Kernel) for operand in operands):
            raise UndecidedError(f"it uses a prunable weight in {called}")
        is_flow = name in LINEAR or any(isinstance(operand, Flow) for operand in operands)
        return _as(Flow if is_flow else Kernel, rule(func, *args, **kwargs))


def gradients(output: object, masks: Sequence[Tensor]) -> list[Tensor]:
    """Return for each mask a tensor of its shape that is positive where a path leads on to the output.

    Args:
        output: what the network returned.
        masks: the float64 leaves that its kernels were made of.

    Raises:
        UndecidedError: no path leads from the input to the output that could be followed all the way.
    """
    if not isinstance(output, Flow):
        raise UndecidedError("what it returns is no tensor that comes from the image")
    total = output.sum()
    _refuse_foreign(total)
    found = torch.autograd.grad(total, masks, allow_unused=True)
    return [torch.zeros_like(mask) if grad is None else grad for mask, grad in zip(masks, found, strict=True)]


def _spelled(called: str, name: str) -> str:
    """Return `add` for `__add__` and `__radd__`, and `add_` for `__iadd__` and `add_`."""
    plain = name[1:] if called.startswith(("__r", "__i")) and name[1:] in ELEMENTWISE else name
    in_place = called.startswith("__i") or (called.endswith("_") and not called.endswith("__"))
    return f"{plain}_" if in_place and plain in ELEMENTWISE else plain


def _is_stray(operand: Tensor) -> bool:
    """Whether a tensor comes from a tracked one by a way that no rule saw."""
    return operand.requires_grad and not isinstance(operand, Tracked)


def _refuse_foreign(total: Tensor) -> None:
    """Refuse a derivative that somebody wrote by hand: it is of numbers, not of paths."""
    front: list[Node | None] = [total.grad_fn]
    seen: set[Node] = set()
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        written: Any = isinstance(node, torch.autograd.function.BackwardCFunction)
        if written and type(node) is not Step._backward_cls:
            raise UndecidedError(f"it has a derivative of its own, {type(node).__name__}")
        front += [before for before, _ in node.next_functions]


def _as(kind: type[Tracked], result: Any) -> Any:
    if isinstance(result, Tracked):
        return result
    if isinstance(result, Tensor):
        return result.as_subclass(kind)
    return type(result)(_as(kind, part) for part in result)
