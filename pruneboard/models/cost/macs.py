"""Multiply-adds of each layer (dense and remaining), of the products inside attention, and of training.

Multiply-adds of a layer = weights x output positions per image. Each weight is used once per position:

| layer | weight | output | positions |
|---|---|---|---|
| convolution | [out, in / groups, kh, kw] | [1, out, h, w] | h w |
| linear | [out, in] | [..., out] | product of the other dimensions: tokens, windows |

Both are `output.numel() // out`. The formula holds for grouped and depthwise convolutions, because their weight has
only the in / groups inputs of its group. Queries, keys, values and projections of attention are linear layers. The two
products of attention multiply activations by activations: they have no weight that could be pruned, and are counted
separately.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pruneboard.models import gated_layers, prunable_layers
from pruneboard.models.cost.tracked import tensors

MACS_DEFINITION = (
    "one multiply-add = 1 MAC, FLOPs = 2 x MACs; counted are convolutions and linear layers (the prunable scope), "
    "per image, one forward pass; attention products (counted apart), normalization, activations and biases are not "
    "counted; weight-standardized convolutions never count as sparse"
)
"""Shown and recorded with every count of multiply-adds."""

FORWARD_AND_BACKWARD = 3
"""Cost of training in forward passes: one forward, one for the gradient of the inputs, one for that of the weights."""


@dataclass(frozen=True)
class LayerCost:
    """Weights and multiply-adds of one prunable layer.

    Attributes:
        name: its name in `named_modules`.
        n: number of weights.
        kept: number of weights that the mask keeps.
        nonzero: number of weights that are not 0; at most `kept`.
        positions: output positions per image at which each weight is used.
        standardized: whether the layer subtracts each filter's mean, so that no position of its kernel is 0.
    """

    name: str
    n: int
    kept: int
    nonzero: int
    positions: int
    standardized: bool = False

    @property
    def macs_dense(self) -> int:
        """Multiply-adds per image of the dense layer."""
        return self.n * self.positions

    @property
    def macs_remaining(self) -> int:
        """Multiply-adds per image if zeros cost nothing; all of them if the kernel is standardized."""
        return self.macs_dense if self.standardized else self.nonzero * self.positions

    def as_dict(self) -> dict[str, Any]:
        """Return the layer's entry in a record."""
        return {
            "name": self.name,
            "n": self.n,
            "kept": self.kept,
            "nonzero": self.nonzero,
            "positions": self.positions,
            "macs_dense": self.macs_dense,
            "macs_remaining": self.macs_remaining,
        }


@dataclass(frozen=True)
class Usage:
    """How often one image uses each weight, and the work that uses no weight.

    Attributes:
        positions: output positions at which a layer's weights are used, by prunable layer.
        attention: multiply-adds of products of two activations (queries by keys, attention weights by values), which
            pruning of weights cannot remove.
    """

    positions: dict[str, int]
    attention: int


def positions(model: nn.Module, image_size: int) -> dict[str, int]:
    """Return `Usage.positions` alone."""
    return usage(model, image_size).positions


def usage(model: nn.Module, image_size: int) -> Usage:
    """Run one image through a network and count the positions of its weights.

    Positions of a layer that is called several times, or of a weight that several layers share, add up; a layer that is
    never called has 0. The counted products of activations are `scaled_dot_product_attention`, `matmul`, `bmm`,
    `baddbmm`, `einsum`, and the two inside torch's own multi-head attention. The image is black, the network in
    evaluation mode on its own device; no parameter, buffer, mode or random state changes.

    Args:
        model: a plain network (no gates attached) for images of three channels.
        image_size: side of the image, in pixels.
    """
    layers = prunable_layers(model)
    users = gated_layers(model)
    counter = _Counter(model, layers)
    reference = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=reference.device, dtype=reference.dtype)
    with ExitStack() as stack:
        for _, layer in users:
            stack.callback(layer.register_forward_hook(counter.count_call).remove)
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        model(image)
    return Usage({name: counter.positions_of(layer) for name, layer in layers}, counter.products)


class _Counter(TorchFunctionMode):
    """Counts output positions per layer, and products of activations.

    Calls of a layer are counted by its forward hook (`count_call`). The attention of BEiT, EVA and Swin V2 passes the
    weight of a layer to `linear` and never calls the layer, so uses of a weight in `linear` are counted as well. A call
    of a linear layer appears in both counts: `positions_of` takes the second one only if there were no calls.
    """

    def __init__(self, model: nn.Module, layers: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self._owners = {id(layer.weight): layer for _, layer in layers}
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._by_call: Counter[nn.Module] = Counter()
        self._by_weight: Counter[nn.Module] = Counter()
        self.products = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is functional.linear:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            owner = self._owners.get(id(weight))
            if owner is not None:
                self._by_weight[owner] += output.numel() // weight.shape[0]
        elif func in _PRODUCTS:
            operands = list(tensors((*args, *kwargs.values())))
            if not any(self._is_weight(operand) for operand in operands[:2]):
                self.products += _PRODUCTS[func](output, operands, args)
        return output

    def _is_weight(self, tensor: Tensor) -> bool:
        return id(tensor if tensor._base is None else tensor._base) in self._parameters  # views too: `weight.t()`

    def count_call(self, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        """Forward hook of every layer: add the positions of this call."""
        assert isinstance(layer.weight, Tensor)
        self._by_call[self._owners[id(layer.weight)]] += output.numel() // layer.weight.shape[0]

    def positions_of(self, layer: nn.Module) -> int:
        """Return the positions counted for `layer`."""
        return self._by_call[layer] or self._by_weight[layer]


def _of_attention(output: Tensor, operands: Sequence[Tensor], _: Any) -> int:
    """Queries by keys: a sum over the query's width. Attention weights by values: a sum over the keys."""
    query, key = operands[:2]  # [batch, heads, tokens, width]
    rows = output.numel() // output.shape[-1]  # batch x heads x queries
    return rows * key.shape[-2] * (query.shape[-1] + output.shape[-1])


def _of_heads(_output: object, operands: Sequence[Tensor], _: Any) -> int:
    query, key = operands[:2]  # [tokens, batch, width]
    return 2 * query.numel() * key.shape[0]


def _of_matmul(output: Tensor, operands: Sequence[Tensor], _: Any) -> int:
    return output.numel() * operands[-2].shape[-1]  # -2: baddbmm has the summand as a third operand before the factors


def _of_einsum(output: Tensor, operands: Sequence[Tensor], args: tuple[Any, ...]) -> int:
    """Each output element is a sum over the letters that the output lacks; dimensions of an ellipsis are kept."""
    inputs, arrow, kept = args[0].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, tensor in zip(inputs.split(","), operands, strict=True):
        first, _, last = letters.partition("...")
        sizes |= dict(zip(first, tensor.shape, strict=False))
        sizes |= dict(zip(reversed(last), reversed(tensor.shape), strict=False))
    kept = kept if arrow else "".join(letter for letter in sizes if inputs.count(letter) == 1)
    return output.numel() * math.prod(size for letter, size in sizes.items() if letter not in kept)


_PRODUCTS: dict[Any, Any] = {
    functional.scaled_dot_product_attention: _of_attention,
    functional.multi_head_attention_forward: _of_heads,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _of_matmul),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _of_matmul),
    torch.einsum: _of_einsum,
}
"""Rules by function: (output, tensor operands, all arguments) -> multiply-adds."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode during the block, then restore the mode of each module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def train_macs(dense_macs_per_image: int, images: int) -> int:
    """Return the multiply-adds of training: three dense forward passes for every image.

    Args:
        dense_macs_per_image: sum of `LayerCost.macs_dense`.
        images: passes of an image through the network in training; every forward pass of a step and every epoch
            counts.
    """
    return FORWARD_AND_BACKWARD * dense_macs_per_image * images
