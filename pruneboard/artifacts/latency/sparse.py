"""Layers that compute with their zeros left out, in the place of those of a network.

A layer keeps its weight and gets another `forward`: what reads the weight past its layer finds it as it was, and
whether a layer was computed sparsely is known once it was called.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.models import gated_layers

Forward = Callable[[Tensor], Tensor]


@dataclass
class Form:
    """A layer's sparse computation.

    Attributes:
        name: of the layer.
        apply: inputs to outputs.
        used: whether it was ever called.
    """

    name: str
    apply: Forward
    used: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the layer would."""
        self.used = True
        return self.apply(x)


def swapped(network: nn.Module, form: Callable[[nn.Module], Forward | None]) -> tuple[nn.Module, list[Form]]:
    """Return a copy of a network with sparse layers, and these.

    Args:
        network: in evaluation mode.
        form: a convolution or linear layer to its sparse computation; None leaves it dense.
    """
    made = copy.deepcopy(network)
    forms = []
    for name, layer in gated_layers(made):
        apply = form(layer)
        if apply is not None:
            forms.append(Form(name, apply))
            layer.forward = forms[-1]
    return made, forms


def torch_csr(layer: nn.Module) -> Forward | None:
    """Return a layer as a product of torch's CSR matrix and its inputs; None where that is not what it computes."""
    if _is_linear(layer):
        return csr_linear(layer)
    return csr_convolution(layer) if _is_convolution(layer) else None


def scipy_csr(layer: nn.Module) -> Forward | None:
    """Return a linear layer as a product of scipy's CSR matrix and its inputs; None for any other layer."""
    return scipy_linear(layer) if _is_linear(layer) else None


def _is_linear(layer: nn.Module) -> bool:
    # A class of its own may do more: adapt the type, standardize the weight, pad.
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _is_convolution(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or type(layer).forward is not nn.Conv2d.forward:
        return False
    return layer.padding_mode == "zeros" and _padding(layer) is not None


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Return the rows and columns of zeros at either side; None where the two sides differ."""
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return None if any(n % 2 for n in whole) else (whole[0] // 2, whole[1] // 2)
    assert not isinstance(layer.padding, str)
    return layer.padding[0], layer.padding[1]


def matrix(weight: Tensor, groups: int = 1) -> Tensor:
    """Return a weight [out, in / groups, ...] as torch's CSR matrix [out, in x ...], indices of 32 bits.

    Groups are blocks on its diagonal: what a filter does not see are zeros like others, and take nothing.
    """
    flat = weight.detach().flatten(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch's CSR is a beta is said where it is measured
        csr = flat.to_sparse_csr()
        columns = csr.col_indices().int()
        if groups > 1:
            rows = torch.arange(len(flat), device=flat.device) // (len(flat) // groups)
            start = (rows * flat.shape[1]).int()
            columns = columns + start.repeat_interleave(csr.crow_indices().diff())
        shape = (len(flat), groups * flat.shape[1])
        return torch.sparse_csr_tensor(csr.crow_indices().int(), columns, csr.values(), shape)


def csr_linear(layer: nn.Module) -> Forward:
    """Return x -> x W^T + b with W in CSR: W times one vector, or times inputs side by side as columns."""
    assert isinstance(layer, nn.Linear)
    weight, bias = matrix(layer.weight), layer.bias

    def apply(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # One vector is a product of its own, several times as fast as a matrix of one column.
        out = (weight @ rows[0])[None] if len(rows) == 1 else (weight @ rows.t().contiguous()).t().contiguous()
        out = out if bias is None else out.add_(bias)
        return out.view(*x.shape[:-1], -1)

    return apply


def csr_convolution(layer: nn.Module) -> Forward:
    """Return a convolution as W in CSR times the windows of the image, laid side by side as columns.

    On the CPU images are taken one by one, whose windows stay in the caches; on a GPU all at once.
    """
    assert isinstance(layer, nn.Conv2d)
    weight, bias = matrix(layer.weight, layer.groups), layer.bias
    alone = weight.device.type == "cpu"

    def several(x: Tensor) -> Tensor:
        columns, (height, width) = windows(x, layer)
        out = weight @ columns
        out = out if bias is None else out.add_(bias[:, None])
        return out.view(-1, len(x), height, width).transpose(0, 1)

    def apply(x: Tensor) -> Tensor:
        return torch.cat([several(image) for image in torch.split(x, 1)]) if alone else several(x).contiguous()

    return apply


def windows(x: Tensor, layer: nn.Conv2d) -> tuple[Tensor, tuple[int, int]]:
    """Return what each output of a convolution sees, [in x kernel, batch x height x width], and height and width.

    `torch.nn.functional.unfold` with the batch inside, copied once from a view, which takes a third of its time.
    """
    padding = _padding(layer)
    assert padding is not None
    (rows, columns), (stride, side), (dilation, across) = layer.kernel_size, layer.stride, layer.dilation
    if any(padding):
        x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    batch, channels, height, width = x.shape
    n, c, h, w = x.stride()
    size = (height - dilation * (rows - 1) - 1) // stride + 1, (width - across * (columns - 1) - 1) // side + 1
    view = x.as_strided((channels, rows, columns, batch, *size), (c, dilation * h, across * w, n, stride * h, side * w))
    return view.reshape(channels * rows * columns, -1), size


def scipy_linear(layer: nn.Module) -> Forward:
    """Return x -> x W^T + b with W in scipy's CSR, which works in one thread."""
    from scipy.sparse import csr_array

    assert isinstance(layer, nn.Linear)
    weight, bias = csr_array(layer.weight.detach().numpy()), layer.bias

    def apply(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).numpy()
        found = (weight @ rows[0])[None] if len(rows) == 1 else np.ascontiguousarray((weight @ rows.T).T)
        out = torch.from_numpy(found)
        return (out if bias is None else out.add_(bias)).view(*x.shape[:-1], -1)

    return apply


def is_two_of_four(weight: Tensor) -> bool:
    """Return whether of every four neighbours in a row at most two are not zero."""
    if weight.ndim != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight != 0).view(len(weight), -1, 4).sum(2) <= 2).all())


def to_two_of_four(network: nn.Module) -> list[str]:
    """Give every plain linear layer that has the pattern torch's 2:4 form, and return their names.

    Args:
        network: in half precision on a CUDA device of compute capability 8.0 or more; changed.
    """
    changed = []
    for name, layer in gated_layers(network):
        if _is_linear(layer) and is_two_of_four(weight := layer.get_parameter("weight")):
            try:
                half = torch.sparse.to_sparse_semi_structured(weight.detach())
            except (RuntimeError, NotImplementedError, ValueError):  # a size that its kernels do not take
                continue
            layer.weight = nn.Parameter(half, requires_grad=False)
            changed.append(name)
    return changed
