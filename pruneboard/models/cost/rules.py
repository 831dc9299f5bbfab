"""Rules for how paths pass through torch's functions: `RULES` maps a function's name to its rule.

A rule is called as `rule(func, *args, **kwargs)` with the function that the network called and its arguments, in which
`Flow` takes the place of activations and `WeightMask` of prunable weights. It returns the resulting paths. `effective`
states the rules in words.

Rules use only sums and products of non-negative numbers, so that autograd follows the same paths backward: where a rule
adds two elements, both receive its gradient. Rules that add end in `binarize`, except in-place additions, whose result
must be the same tensor object; the next rule binarizes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pruneboard.models.cost.tracked import Flow, SoftmaxFlow, Tracked, UndecidedError, WeightMask, binarize, tensors


def _flow(x: Any) -> Tensor:
    """Return where paths arrive: the tensor itself, or zeros for a constant, where no path arrives."""
    if isinstance(x, Flow):
        return x
    return torch.zeros(x.shape, dtype=torch.float64, device=x.device)


def _tracked(x: Any) -> Tensor:
    """Return `x`, which must be tracked: it is not if a constant is indexed by values that depend on the image."""
    if not isinstance(x, Tracked):
        raise UndecidedError("it selects from constants by values that depend on the image")
    return x


def _unchanged(_func: Any, x: Any, *_args: Any, **_kwargs: Any) -> Tensor:
    return _tracked(x)


def _dropout(_func: Any, x: Any, p: float = 0.5, training: bool = True, **_: Any) -> Tensor:  # noqa: FBT001, FBT002 - torch's
    if training and p:
        raise UndecidedError("it applies dropout in evaluation mode")
    return _tracked(x)


def _rearranged(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a function that moves, selects or repeats elements: paths move with them."""
    return func(_tracked(x), *args, **kwargs)


def _concatenated(func: Any, parts: Sequence[Any], *args: Any, **kwargs: Any) -> Tensor:
    concatenated: Tensor = func([_flow(part) for part in parts], *args, **kwargs)
    return concatenated


def _padded(_func: Any, x: Any, pad: Sequence[int], mode: str = "constant", **_: Any) -> Tensor:
    return functional.pad(_tracked(x), list(pad), mode)  # the padding value is a constant: 0, whatever it was


def _pooled(func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Apply a sum or an average: an output is reached if any element that enters it is."""
    return binarize(func(_tracked(x), *args, **kwargs))


def _elementwise(_func: Any, *operands: Any, **named: Any) -> Tensor:
    """Follow a sum, product or selection of several operands: an element is reached if either operand is.

    A product is treated as a sum. Its real derivative, the other factor, would end the path where that factor is a
    constant, for which `_flow` is 0 although the constant itself is nonzero.
    """
    given = list(tensors((*operands, *named.values())))
    if any(isinstance(operand, WeightMask) for operand in given):
        return _scaled_weight(given)
    return binarize(sum((_flow(operand) for operand in given), torch.zeros((), dtype=torch.float64)))


def _scaled_weight(given: Sequence[Tensor]) -> Tensor:
    """Follow a product of a prunable weight and constants: its zeros stay zeros, and scales count as nonzero."""
    weight, *scales = given
    if any(isinstance(operand, Tracked) for operand in scales):
        raise UndecidedError("it multiplies a prunable weight by values that depend on the image")
    for scale in scales:
        weight = weight * torch.ones_like(scale)  # broadcasts to the shape of the product
    return binarize(weight)


def _elementwise_in_place(_func: Any, x: Any, *operands: Any, **named: Any) -> Tensor:
    if not isinstance(x, Flow):
        raise UndecidedError("it modifies a constant with values that depend on the image")
    for operand in tensors((*operands, *named.values())):
        x.add_(_flow(operand))
    return x


def _all_to_all(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Connect each element to every other along `dims`, as statistics computed over these dimensions do."""
    return binarize(x + x.sum(tuple(dims), keepdim=True))


def _softmax(_func: Any, x: Any, dim: int, **_: Any) -> Tensor:
    flow = _all_to_all(_tracked(x), [dim])
    return flow.as_subclass(SoftmaxFlow) if dim in (-1, x.dim() - 1) else flow


def _layer_norm(_func: Any, x: Any, normalized_shape: Sequence[int], *_args: Any, **_kwargs: Any) -> Tensor:
    return _all_to_all(_tracked(x), range(-len(normalized_shape), 0))


def _group_norm(_func: Any, x: Any, num_groups: int, *_args: Any, **_kwargs: Any) -> Tensor:
    groups = _tracked(x).reshape(x.shape[0], num_groups, -1)
    return _all_to_all(groups, [-1]).reshape(x.shape)


def _batch_norm(_func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    training = kwargs["training"] if "training" in kwargs else len(args) > 4 and args[4]
    if not training:
        return _tracked(x)
    return _all_to_all(_tracked(x), [dim for dim in range(x.dim()) if dim != 1])  # weight standardization


def _normalize(_func: Any, x: Any, p: float = 2.0, dim: int = 1, **_: Any) -> Tensor:
    del p
    return _all_to_all(_tracked(x), [dim])


def _norm(_func: Any, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002 - torch's
    del p
    return binarize(_tracked(x).sum(dim, keepdim=keepdim))


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
        raise UndecidedError("it uses max-pooling with dilation or with indices")
    # An average has a gradient at every element of the window; a maximum only at the largest, so it would lose paths.
    return binarize(functional.avg_pool2d(_tracked(x), kernel_size, stride, padding, ceil_mode))


def _adaptive_max_pool2d(_func: Any, x: Any, output_size: Any, **_: Any) -> Tensor:
    return binarize(functional.adaptive_avg_pool2d(_tracked(x), output_size))


def _interpolate(func: Any, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "nearest")
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area"):
        raise UndecidedError(f"it uses {mode} interpolation, which has negative coefficients")
    return binarize(func(_tracked(x), *args, **kwargs))


def _linear_map(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Follow a linear layer or convolution; its arguments may be positional or named, and its bias starts no path."""
    values = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    x, weight = values.pop("input"), values.pop("weight")
    values.pop("bias", None)
    return _linear(func, x, weight, None, *args[3:], **values)


def _linear(func: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Apply a linear map to paths.

    A constant input counts as reached everywhere (an input of its own). A weight outside the prunable scope, which is
    no `WeightMask`, counts as nonzero everywhere.
    """
    if isinstance(x, WeightMask) or isinstance(weight, Flow):
        raise UndecidedError("its weights depend on the image")
    x, weight = (
        value if isinstance(value, Tracked) else torch.ones_like(value, dtype=torch.float64) for value in (x, weight)
    )
    return binarize(func(x, weight, *args, **kwargs))


def _matmul(func: Any, left: Any, right: Any) -> Tensor:
    """Follow a product of activations [..., n, k] @ [..., k, m], or of activations and a prunable weight.

    Entry (i, j) of a product of activations is reached if an element in row i of the left factor or in column j of the
    right factor is.
    """
    if isinstance(right, WeightMask):
        return _linear(func, left, right)
    if isinstance(left, WeightMask) or min(left.dim(), right.dim()) < 2:
        raise UndecidedError("it multiplies vectors, or has a prunable weight as the left factor of a product")
    if isinstance(left, SoftmaxFlow) and isinstance(right, Flow):
        return _weighted_average(left.sum(-1, keepdim=True), right)
    return binarize(_flow(left).sum(-1, keepdim=True) + _flow(right).sum(-2, keepdim=True))


def _weighted_average(weights: Tensor, values: Tensor) -> Tensor:
    """Follow an average of values [..., keys, channels] with softmax weights [..., queries, 1].

    A channel that is reached at no key has the same constant at every key, and so has its average. The weights
    (queries and keys) therefore pass on nothing there: `reached` multiplies them, detached, so that this product gives
    the values no second gradient that would depend on whether the weights are reached.
    """
    reached = values.sum(-2, keepdim=True)
    return binarize(reached + weights * reached.detach())


def _attention(
    _func: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **kwargs: Any
) -> Tensor:
    if dropout_p or kwargs.get("enable_gqa") or not isinstance(value, Flow):
        raise UndecidedError("its attention uses dropout, grouped queries or constant values")
    weights = _flow(query).sum(-1, keepdim=True) + _flow(key).sum((-2, -1), keepdim=True)
    if attn_mask is not None:
        weights = weights + _flow(attn_mask).sum(-1, keepdim=True)
    return _weighted_average(weights, value)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


METADATA = _names(
    "shape size dim ndim numel nelement dtype device is_cuda is_cpu layout is_floating_point is_contiguous stride "
    "requires_grad len is_complex is_sparse is_quantized is_mps is_meta get_device new_zeros new_ones new_empty "
    "zeros_like ones_like is_nested"
)
"""Functions that read a tensor's shape, type or place, not its values."""

ELEMENTWISE = _names("add sub mul div truediv true_divide multiply divide maximum minimum where pow addcmul addcdiv")
"""Functions of two or more operands; their in-place forms have the same name with a `_` at the end."""

LINEAR = _names("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul")
"""Functions that apply a weight to activations."""

_REARRANGING = _names(
    "reshape view flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze expand expand_as repeat tile "
    "contiguous clone chunk split tensor_split unbind getitem narrow select roll flip pixel_shuffle pixel_unshuffle "
    "view_as reshape_as T mT t index_select repeat_interleave unfold"
)
_ACTIVATIONS = _names(
    "relu relu6 gelu silu mish elu selu celu leaky_relu hardtanh hardswish hardsigmoid sigmoid tanh softplus "
    "exp sqrt rsqrt square abs neg clamp reciprocal to float double half type type_as masked_fill"
)

ON_WEIGHTS = _REARRANGING | LINEAR | {"mul", "div", "truediv", "batch_norm"}
"""Functions allowed on a prunable weight: they keep its zeros, or their rule handles a `WeightMask`."""

RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_REARRANGING, _rearranged),
    **dict.fromkeys(_ACTIVATIONS, _unchanged),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys((f"{name}_" for name in ELEMENTWISE), _elementwise_in_place),
    **dict.fromkeys(LINEAR, _linear_map),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _concatenated),
    **dict.fromkeys(("mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "avg_pool1d", "adaptive_avg_pool1d"), _pooled),
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
"""Rules by the name of the torch function."""
