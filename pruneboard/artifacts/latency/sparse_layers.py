"""Replace the layers of a network by sparse ones that skip zeros.

A layer keeps its weight, and only its `forward` is replaced. So code that reads the weight without calling the layer
still works, and stays dense; which layers were computed sparsely is known after the first call of the network.
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
Convert = Callable[[nn.Module], Forward | None]


@dataclass
class SparseForward:
    """The sparse `forward` of a layer.

    Attributes:
        name: the layer's name.
        apply: computes the layer's outputs from its inputs.
        used: whether it was ever called.
    """

    name: str
    apply: Forward
    used: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        self.used = True
        return self.apply(x)


def with_sparse_layers(network: nn.Module, convert: Convert) -> tuple[nn.Module, list[SparseForward]]:
    """Return a copy of a network with sparse layers, and the new `forward` of each.

    Args:
        network: in evaluation mode.
        convert: returns the sparse computation of a convolution or linear layer, or None to leave it dense.
    """
    network = copy.deepcopy(network)
    forwards = []
    for name, layer in gated_layers(network):
        apply = convert(layer)
        if apply is not None:
            forwards.append(SparseForward(name, apply))
            layer.forward = forwards[-1]
    return network, forwards


def torch_csr(layer: nn.Module) -> Forward | None:
    """Return a layer as the product of torch's CSR matrix with its inputs; None if it computes anything else."""
    if _is_linear(layer):
        return csr_linear(layer)
    return csr_convolution(layer) if _is_convolution(layer) else None


def scipy_csr(layer: nn.Module) -> Forward | None:
    """Return a linear layer as the product of scipy's CSR matrix with its inputs; None for any other layer."""
    return scipy_linear(layer) if _is_linear(layer) else None


def _is_linear(layer: nn.Module) -> bool:
    # A subclass with its own `forward` may do more, such as cast its inputs, standardize its weight or pad.
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def _is_convolution(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or type(layer).forward is not nn.Conv2d.forward:
        return False
    return layer.padding_mode == "zeros" and _padding(layer) is not None


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Return the rows and columns of zeros on each side; None if the two sides differ."""
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return None if any(n % 2 for n in total) else (total[0] // 2, total[1] // 2)
    assert not isinstance(layer.padding, str)
    return layer.padding[0], layer.padding[1]


def csr_matrix(weight: Tensor, groups: int = 1) -> Tensor:
    """Return a weight [out, in / groups, ...] as torch's CSR matrix [out, in x ...] with 32-bit indices.

    Groups become blocks on the diagonal. Inputs outside a filter's group are zeros, which CSR does not store.
    """
    flat = weight.detach().flatten(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that its CSR support is in beta
        csr = flat.to_sparse_csr()
        columns = csr.col_indices().int()
        if groups > 1:
            # Shift each row's columns to those of its group: row -> group -> first column.
            group = torch.arange(len(flat), device=flat.device) // (len(flat) // groups)
            start = (group * flat.shape[1]).int()
            columns = columns + start.repeat_interleave(csr.crow_indices().diff())
        shape = (len(flat), groups * flat.shape[1])
        return torch.sparse_csr_tensor(csr.crow_indices().int(), columns, csr.values(), shape)


def csr_linear(layer: nn.Module) -> Forward:
    """Return x -> x W^T + b with W in CSR, for x [..., in]: W times one vector, or times a matrix of input columns."""
    assert isinstance(layer, nn.Linear)
    weight, bias = csr_matrix(layer.weight), layer.bias

    def apply(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # The product with a vector is several times as fast as the one with a matrix of one column.
        out = (weight @ rows[0])[None] if len(rows) == 1 else (weight @ rows.t().contiguous()).t().contiguous()
        out = out if bias is None else out.add_(bias)
        return out.view(*x.shape[:-1], -1)

    return apply


def csr_convolution(layer: nn.Module) -> Forward:
    """Return a convolution as W in CSR [out, in x kernel] times the image's windows [in x kernel, positions].

    On the CPU, images are processed one by one, so that their windows stay in the caches; on a GPU, all at once.
    """
    assert isinstance(layer, nn.Conv2d)
    weight, bias = csr_matrix(layer.weight, layer.groups), layer.bias
    one_by_one = weight.device.type == "cpu"

    def convolve(x: Tensor) -> Tensor:
        columns, (height, width) = unfold_windows(x, layer)
        out = weight @ columns  # [out, batch x height x width]
        out = out if bias is None else out.add_(bias[:, None])
        return out.view(-1, len(x), height, width).transpose(0, 1)

    def apply(x: Tensor) -> Tensor:
        return torch.cat([convolve(image) for image in torch.split(x, 1)]) if one_by_one else convolve(x).contiguous()

    return apply


def unfold_windows(x: Tensor, layer: nn.Conv2d) -> tuple[Tensor, tuple[int, int]]:
    """Return the inputs of each output of a convolution, and the height and width of the outputs.

    Like `torch.nn.functional.unfold`, but with the batch in the columns. It copies once from a strided view, which
    takes a third of the time of `unfold`.

    Args:
        x: images [batch, in, height, width].
        layer: the convolution.

    Returns:
        The windows [in x kernel, batch x height x width], and (height, width).
    """
    padding = _padding(layer)
    assert padding is not None
    (kernel_h, kernel_w), (stride_h, stride_w), (step_h, step_w) = layer.kernel_size, layer.stride, layer.dilation
    if any(padding):
        x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    batch, channels, height, width = x.shape
    n, c, h, w = x.stride()
    out_h = (height - step_h * (kernel_h - 1) - 1) // stride_h + 1
    out_w = (width - step_w * (kernel_w - 1) - 1) // stride_w + 1
    # Each kernel position reads the padded image at its own offset, in steps of the stride.
    shape = (channels, kernel_h, kernel_w, batch, out_h, out_w)
    view = x.as_strided(shape, (c, step_h * h, step_w * w, n, stride_h * h, stride_w * w))
    return view.reshape(channels * kernel_h * kernel_w, -1), (out_h, out_w)


def scipy_linear(layer: nn.Module) -> Forward:
    """Return x -> x W^T + b with W in scipy's CSR, which uses one thread."""
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
    """Return whether a matrix has at most two non-zeros in each group of four columns, in every row."""
    if weight.ndim != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight != 0).view(len(weight), -1, 4).sum(2) <= 2).all())


def convert_to_two_of_four(network: nn.Module) -> list[str]:
    """Convert every plain linear layer with a 2:4 pattern to torch's semi-structured format, and return their names.

    Args:
        network: in half precision on a CUDA device of compute capability 8.0 or more; modified in place.
    """
    changed = []
    for name, layer in gated_layers(network):
        if _is_linear(layer) and is_two_of_four(weight := layer.get_parameter("weight")):
            try:
                half = torch.sparse.to_sparse_semi_structured(weight.detach())
            except (RuntimeError, NotImplementedError, ValueError):  # a shape that its kernels do not support
                continue
            layer.weight = nn.Parameter(half, requires_grad=False)
            changed.append(name)
    return changed
