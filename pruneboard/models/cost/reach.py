"""Follow paths through a network: forward from the input, and backward from the output by autograd.

Two kinds of tensors take the place of the network's own: `Flow` for activations (positive where a path from the input
arrives) and `WeightMask` for prunable weights (positive where the weight is not 0). `FollowPaths` replaces each
operation on such a tensor by its effect on paths (`rules`; `effective` explains the choices). Operations on other
tensors, the network's constants, run unchanged.

Each rule computes sums and products of non-negative numbers. The gradient of the summed output is then also
non-negative, and it is positive exactly where a path continues to the output: autograd follows the same connections
backward. For a linear map y = x W^T, the gradient at W[o, i] is the sum over positions of x[i] * grad_y[o]: positive if
some input position is reached *and* continues to the output through this weight.

A network whose paths cannot be determined raises an error: it has an operation without a rule, or one that could lose a
path unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, resolve_name

from pruneboard.models.cost.rules import ELEMENTWISE, LINEAR, METADATA, ON_WEIGHTS, RULES
from pruneboard.models.cost.tracked import Binarize, Flow, Tracked, UndecidedError, WeightMask, tensors


class FollowPaths(TorchFunctionMode):
    """Inside this mode, an operation on a `Flow` or a `WeightMask` computes its effect on paths."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule for `func`.

        Raises:
            UndecidedError: there is no rule, or it does not cover this use of the function.
        """
        kwargs = kwargs or {}
        operands = list(tensors((*args, *kwargs.values())))
        if not any(isinstance(operand, Tracked) for operand in operands):
            return func(*args, **kwargs)
        called = (resolve_name(func) or str(func)).removesuffix(".__get__").rpartition(".")[2]
        name = called.strip("_")
        if name in METADATA:
            return func(*args, **kwargs)
        if kwargs.get("out") is not None or any(_lost_its_type(operand) for operand in operands):
            raise UndecidedError(f"it uses {called} in a way that hides where its result comes from")
        rule = RULES.get(_rule_name(called, name))
        if rule is None:
            raise UndecidedError(f"it uses {called}, and there is no rule for how paths pass through it")
        if name not in ON_WEIGHTS and any(isinstance(operand, WeightMask) for operand in operands):
            raise UndecidedError(f"it uses a prunable weight in {called}")
        is_flow = name in LINEAR or any(isinstance(operand, Flow) for operand in operands)
        return _cast(Flow if is_flow else WeightMask, rule(func, *args, **kwargs))


def path_gradients(output: object, masks: Sequence[Tensor]) -> list[Tensor]:
    """Return for each mask a tensor of its shape, positive where a path from the input continues to the output.

    Args:
        output: what the network returned.
        masks: the float64 leaves behind the network's `WeightMask` tensors.

    Raises:
        UndecidedError: the output is not a `Flow`, or its paths pass through a custom derivative.
    """
    if not isinstance(output, Flow):
        raise UndecidedError("its output is not a tensor that depends on the image")
    total = output.sum()
    _refuse_custom_derivatives(total)
    found = torch.autograd.grad(total, masks, allow_unused=True)
    return [torch.zeros_like(mask) if grad is None else grad for mask, grad in zip(masks, found, strict=True)]


def _rule_name(called: str, name: str) -> str:
    """Return the key in `RULES`: `add` for `__add__` and `__radd__`, `add_` for `__iadd__` and `add_`."""
    plain = name[1:] if called.startswith(("__r", "__i")) and name[1:] in ELEMENTWISE else name
    in_place = called.startswith("__i") or (called.endswith("_") and not called.endswith("__"))
    return f"{plain}_" if in_place and plain in ELEMENTWISE else plain


def _lost_its_type(operand: Tensor) -> bool:
    """Return whether a plain tensor was computed from a tracked one by an operation that no rule handled.

    Constants are detached, so only what derives from a mask or the image requires a gradient.
    """
    return operand.requires_grad and not isinstance(operand, Tracked)


def _refuse_custom_derivatives(total: Tensor) -> None:
    """Traverse the autograd graph and refuse a hand-written derivative: it may not follow paths."""
    pending: list[Node | None] = [total.grad_fn]
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        custom: Any = isinstance(node, torch.autograd.function.BackwardCFunction)
        if custom and type(node) is not Binarize._backward_cls:
            raise UndecidedError(f"it has a custom derivative, {type(node).__name__}")
        pending += [before for before, _ in node.next_functions]


def _cast(kind: type[Tracked], result: Any) -> Any:
    """Return the result of a rule as tracked tensors; sequences of tensors (of `chunk`, `split`) keep their type."""
    if isinstance(result, Tracked):
        return result
    if isinstance(result, Tensor):
        return result.as_subclass(kind)
    return type(result)(_cast(kind, part) for part in result)
