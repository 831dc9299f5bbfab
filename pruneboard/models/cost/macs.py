"""Multiply-adds: of each layer, dense and remaining, of the products inside attention, and of training.

A layer's multiply-adds are the weights it holds times the output positions each of them is used at, also for grouped
convolutions, whose weights are fewer by the number of groups. Queries, keys, values and projections of attention are
linear layers like others. Its two products multiply activations by activations: they hold no weight that could be
pruned, and are counted apart.
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
from pruneboard.models.cost.kinds import tensors

MACS_DEFINITION = (
    "one multiply-add = 1 MAC, FLOPs = 2 x MACs; counted are convolutions and linear layers (the prunable scope), "
    "per image, one forward pass; attention products (counted apart), normalization, activations and biases are not "
    "counted; weight-standardized convolutions never count as sparse"
)
"""Printed with every number of multiply-adds."""

FORWARD_AND_BACKWARD = 3
"""A training pass costs three forward passes: the forward, the gradient of the inputs, the gradient of the weights."""


@dataclass(frozen=True)
class LayerCost:
    """One prunable layer.

    Attributes:
        name: as `named_modules` has it.
        n: weights.
        kept: weights that the masks keep.
        nonzero: weights that are not 0, at most `kept`.
        positions: output positions each weight is used at, per image.
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
        """Multiply-adds per image left when zeros cost nothing; all of them where the kernel is standardized."""
        return self.macs_dense if self.standardized else self.nonzero * self.positions

    def as_dict(self) -> dict[str, Any]:
        """Return what a record says of the layer."""
        return {
            "name": self.name,
            "n": self.n,
            "kept": self.kept,
            "nonzero": self.nonzero,
            "positions": self.positions,
            "macs_dense": self.macs_dense,
            "macs_remaining": self.macs_remaining,
        }

    def macs_train(self, images: int) -> int:
        """Multiply-adds of training this layer on `images` images, every forward pass of a step counted."""
        return train_macs(self.macs_dense, images)


@dataclass(frozen=True)
class Usage:
    """What one image makes a network do.

    Attributes:
        positions: by prunable layer, the output positions its weights are used at.
        attention: multiply-adds of products of two activations, which no pruning of weights removes: queries by keys
            and their shares by values.
    """

    positions: dict[str, int]
    attention: int


def positions(model: nn.Module, image_size: int) -> dict[str, int]:
    """Return `Usage.positions` alone."""
    return usage(model, image_size).positions


def usage(model: nn.Module, image_size: int) -> Usage:
    """Return what each weight is used for, per image.

    A convolution is used at its output pixels, a linear layer at the rows it is applied to; a layer called several
    times has the sum, as has a weight that several layers share, one that is never called has 0. Products of
    activations are those of `scaled_dot_product_attention`, `matmul`, `bmm`, `baddbmm` and `einsum`, and the two
    inside torch's own multi-head attention. Measured with one black image in evaluation mode on the model's device:
    no parameter, buffer, mode flag or random state changes.

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
            stack.callback(layer.register_forward_hook(counter.called).remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        model(image)
    return Usage({name: counter.of(layer) for name, layer in layers}, counter.products)


class _Counter(TorchFunctionMode):
    """Counts output positions per layer, of its own calls or else of linear maps made with its weight, and products.

    The attention of BEiT, EVA and Swin V2 hands the weight of a layer to `linear` and never calls the layer.
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
        return id(tensor if tensor._base is None else tensor._base) in self._parameters  # also a transposed one

    def called(self, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        """Forward hook of every layer: its outputs, divided by its output channels."""
        assert isinstance(layer.weight, Tensor)
        self._by_call[self._owners[id(layer.weight)]] += output.numel() // layer.weight.shape[0]

    def of(self, layer: nn.Module) -> int:
        """Return the positions counted for `layer`."""
        return self._by_call[layer] or self._by_weight[layer]


def _of_attention(output: Tensor, operands: Sequence[Tensor], _: Any) -> int:
    """One product over the width of a query, one over the keys."""
    query, key = operands[:2]
    rows = output.numel() // output.shape[-1]  # heads x queries
    return rows * key.shape[-2] * (query.shape[-1] + output.shape[-1])


def _of_heads(_output: object, operands: Sequence[Tensor], _: Any) -> int:
    query, key = operands[:2]  # [tokens, batch, width]
    return 2 * query.numel() * key.shape[0]


def _of_matmul(output: Tensor, operands: Sequence[Tensor], _: Any) -> int:
    return output.numel() * operands[-2].shape[-1]  # baddbmm has a third before them


def _of_einsum(output: Tensor, operands: Sequence[Tensor], args: tuple[Any, ...]) -> int:
    """Every element of the output is a sum over the letters that it lacks; what an ellipsis stands for it has."""
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
"""Function -> multiply-adds, from its output, the tensors it was given and all its arguments."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode inside, and each back into its own mode behind."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def train_macs(dense_macs_per_image: int, images: int) -> int:
    """Return the multiply-adds of training: three forward passes for every image, executed densely.

    Args:
        dense_macs_per_image: sum of `LayerCost.macs_dense`.
        images: images passed through the network, each as often as it was passed: every forward pass of a
            step and every epoch counts.
    """
    return FORWARD_AND_BACKWARD * dense_macs_per_image * images
