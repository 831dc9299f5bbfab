"""What each of torch's functions does to paths: the function that was called and its arguments -> where they lead.

`effective` says what a path is. A rule is given `Flow`, `Kernel` and constants, and computes with sums and products of
numbers of 0 or more, so that autograd follows the same paths back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pruneboard.models.cost.kinds import Flow, Kernel, Shares, Tracked, UndecidedError, step, tensors


def _flow(x: Any) -> Tensor:
    """Return where paths arrive: nowhere at a constant."""
    if isinstance(x, Flow):
        return x
    return torch.zeros(x.shape, dtype=torch.float64, device=x.device)


def _first(x: Any) -> Tensor:
    if not isinstance(x, Tracked):
        raise UndecidedError("it looks up constants by what comes from the image")
    return x


def _same(_func: Any, x: Any, *_args: Any, **_kwargs: Any) -> Tensor:
    return _first(x)


def _dropout(_func: Any, x: Any, p: float = 0.5, training: bool = True, **_: Any) -> Tensor:  # noqa: FBT001, FBT002 - torch's
    if training and p:
        raise UndecidedError("it drops out in evaluation mode")
    return _first(x)


def _moved(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return func(_first(x), *args, **kwargs)


def _joined(func: Any, parts: Sequence[Any], *args: Any, **kwargs: Any) -> Tensor:
    joined: Tensor = func([_flow(part) for part in parts], *args, **kwargs)
    return joined


def _padded(_func: Any, x: Any, pad: Sequence[int], mode: str = "constant", **_: Any) -> Tensor:
    return functional.pad(_first(x), list(pad), mode)  # a constant around it is no path


def _mixed(func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    return step(func(_first(x), *args, **kwargs))


def _any_of(_func: Any, *operands: Any, **named: Any) -> Tensor:
    given = list(tensors((*operands, *named.values())))
    if any(isinstance(operand, Kernel) for operand in given):
        return _scaled(given)
    return step(sum((_flow(operand) for operand in given), torch.zeros((), dtype=torch.float64)))


def _scaled(given: Sequence[Tensor]) -> Tensor:
    kernel, *scales = given
    if any(isinstance(operand, Tracked) for operand in scales):
        raise UndecidedError("it multiplies a prunable weight by what comes from the image")
    for scale in scales:
        kernel = kernel * torch.ones_like(scale)  # of the shape that both come to
    return step(kernel)


def _any_in_place(_func: Any, x: Any, *operands: Any, **named: Any) -> Tensor:
    if not isinstance(x, Flow):
        raise UndecidedError("it changes a constant by what comes from the image")
    for operand in tensors((*operands, *named.values())):
        x.add_(_flow(operand))
    return x


def _coupled(x: Tensor, dims: Sequence[int]) -> Tensor:
    return step(x + x.sum(tuple(dims), keepdim=True))


def _softmax(_func: Any, x: Any, dim: int, **_: Any) -> Tensor:
    shares = _coupled(_first(x), [dim])
    return shares.as_subclass(Shares) if dim in (-1, x.dim() - 1) else shares


def _layer_norm(_func: Any, x: Any, normalized_shape: Sequence[int], *_args: Any, **_kwargs: Any) -> Tensor:
    return _coupled(_first(x), range(-len(normalized_shape), 0))


def _group_norm(_func: Any, x: Any, num_groups: int, *_args: Any, **_kwargs: Any) -> Tensor:
    groups = _first(x).reshape(x.shape[0], num_groups, -1)
    return _coupled(groups, [-1]).reshape(x.shape)


def _batch_norm(_func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    training = kwargs["training"] if "training" in kwargs else len(args) > 4 and args[4]
    if not training:
        return _first(x)
    return _coupled(_first(x), [dim for dim in range(x.dim()) if dim != 1])  # a kernel, seen as one long batch


def _normalize(_func: Any, x: Any, p: float = 2.0, dim: int = 1, **_: Any) -> Tensor:
    del p
    return _coupled(_first(x), [dim])


def _norm(_func: Any, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002 - torch's
    del p
    return step(_first(x).sum(dim, keepdim=keepdim))


def _max_pool2d(
    _func: Any,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - torch's
    return_indices: bool = False,  # noqa: FBT001, FBT002 - torch's
) -> Tensor:
    if return_indices or dilation not in (1, (1, 1), [1, 1]):
        raise UndecidedError("it pools with a dilation or returns where the largest are")
    return step(functional.avg_pool2d(_first(x), kernel_size, stride, padding, ceil_mode))


def _adaptive_max_pool2d(_func: Any, x: Any, output_size: Any, **_: Any) -> Tensor:
    return step(functional.adaptive_avg_pool2d(_first(x), output_size))


def _interpolate(func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "nearest")
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area"):
        raise UndecidedError(f"it interpolates by {mode}, which subtracts")
    return step(func(_first(x), *args, **kwargs))


def _linear_map(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    values = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    x, weight = values.pop("input"), values.pop("weight")
    values.pop("bias", None)  # a constant
    return _through(func, x, weight, None, *args[3:], **values)


def _through(func: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Follow a linear map; what is no `Flow` is an input of its own, and what is no `Kernel` has no zeros."""
    if isinstance(x, Kernel) or isinstance(weight, Flow):
        raise UndecidedError("its weights come from the image")
    x, weight = (
        value if isinstance(value, Tracked) else torch.ones_like(value, dtype=torch.float64) for value in (x, weight)
    )
    return step(func(x, weight, *args, **kwargs))


def _matmul(func: Any, left: Any, right: Any) -> Tensor:
    if isinstance(right, Kernel):
        return _through(func, left, right)
    if isinstance(left, Kernel) or min(left.dim(), right.dim()) < 2:
        raise UndecidedError("it multiplies vectors, or a prunable weight from the left")
    if isinstance(left, Shares) and isinstance(right, Flow):
        return _averaged(left.sum(-1, keepdim=True), right)
    return step(_flow(left).sum(-1, keepdim=True) + _flow(right).sum(-2, keepdim=True))


def _averaged(shares: Tensor, values: Tensor) -> Tensor:
    """Follow an average of `values`: a channel of which none is reached stays a constant, whatever the shares."""
    reached = values.sum(-2, keepdim=True)
    return step(reached + shares * reached.detach())


def _attention(
    _func: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **kwargs: Any
) -> Tensor:
    if dropout_p or kwargs.get("enable_gqa") or not isinstance(value, Flow):
        raise UndecidedError("its attention drops out, shares keys among queries, or averages constants")
    shares = _flow(query).sum(-1, keepdim=True) + _flow(key).sum((-2, -1), keepdim=True)
    if attn_mask is not None:
        shares = shares + _flow(attn_mask).sum(-1, keepdim=True)
    return _averaged(shares, value)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ASKED = _names(
    "shape size dim ndim numel nelement dtype device is_cuda is_cpu layout is_floating_point is_contiguous stride "
    "requires_grad len is_complex is_sparse is_quantized is_mps is_meta get_device new_zeros new_ones new_empty "
    "zeros_like ones_like is_nested"
)
"""What asks about a tensor and not for its values."""

ELEMENTWISE = _names("add sub mul div truediv true_divide multiply divide maximum minimum where pow addcmul addcdiv")
"""Of two operands or more; in place under the same name with a `_`."""

LINEAR = _names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul")
"""What uses a weight on activations."""

_MOVES = _names(
    "reshape view flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze expand expand_as repeat tile "
    "contiguous clone chunk split tensor_split unbind getitem narrow select roll flip pixel_shuffle pixel_unshuffle "
    "view_as reshape_as T mT t index_select repeat_interleave unfold"
)
_ONE_BY_ONE = _names(
    "relu relu6 gelu silu mish elu selu celu leaky_relu hardtanh hardswish hardsigmoid sigmoid tanh softplus "
    "exp sqrt rsqrt square abs neg clamp reciprocal to float double half type type_as masked_fill"
)

FOR_KERNELS = _MOVES | LINEAR | {"mul", "div", "truediv", "batch_norm"}
"""What leaves zeros of a weight zeros, or is a rule that sees to it."""

RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(_ONE_BY_ONE, _same),
    **dict.fromkeys(ELEMENTWISE, _any_of),
    **dict.fromkeys((f"{name}_" for name in ELEMENTWISE), _any_in_place),
    **dict.fromkeys(LINEAR, _linear_map),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
    **dict.fromkeys(("mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "avg_pool1d", "adaptive_avg_pool1d"), _mixed),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "pad": _padded,
    "dropout": _dropout,
    "softmax": _softmax,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "normalize": _normalize,
    "norm": _norm,
    "max_pool2d": _max_pool2d,
    "interpolate": _interpolate,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "scaled_dot_product_attention": _attention,
}
"""Name of a function of torch -> its rule."""
