"""What a network costs: multiply-adds, bytes and memory.

Counts are of the prunable scope (`pruneboard.models.prunable_layers`) and exact: a layer's multiply-adds
are the weights it holds times the output positions each of them is used at, also for grouped convolutions,
whose weights are fewer by the number of groups.
"""

from __future__ import annotations

import math
import re
import resource
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pruneboard.models import extras, gated_layers, prunable_layers

MACS_DEFINITION = (
    "one multiply-add = 1 MAC, FLOPs = 2 x MACs; counted are convolutions and linear layers (the prunable scope), "
    "per image, one forward pass; attention products, normalization, activations and biases are not counted; "
    "weight-standardized convolutions never count as sparse"
)
"""Printed with every number of multiply-adds."""

FORWARD_AND_BACKWARD = 3
"""A training pass costs three forward passes: the forward, the gradient of the inputs, the gradient of the weights."""

VALUE_BYTES = 4
"""Of a float32 value, and of an index or a row pointer of the CSR format."""

VALUE_BITS, SEED_BITS = 32, 64
"""Of a float32 value and of the seed of the frozen weights, on the supermask track."""


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

    def macs_train(self, images: int) -> int:
        """Multiply-adds of training this layer on `images` images, every forward pass of a step counted."""
        return train_macs(self.macs_dense, images)


def positions(model: nn.Module, image_size: int) -> dict[str, int]:
    """Return for each prunable layer the number of output positions its weights are used at, per image.

    A convolution's are its output pixels, a linear layer's the rows it is applied to; a layer called several
    times has the sum, as has a weight that several layers share, one that is never called has 0. Measured with
    one black image in evaluation mode on the model's device: no parameter, buffer, mode flag or random state
    changes.

    Args:
        model: a plain network (no gates attached) for images of three channels.
        image_size: side of the image, in pixels.
    """
    layers = prunable_layers(model)
    users = gated_layers(model)
    counter = _Counter(layers)
    reference = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=reference.device, dtype=reference.dtype)
    with ExitStack() as stack:
        for _, layer in users:
            stack.callback(layer.register_forward_hook(counter.called).remove)
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        model(image)
    return {name: counter.of(layer) for name, layer in layers}


class _Counter(TorchFunctionMode):
    """Counts output positions per layer, of its own calls or else of linear maps made with its weight.

    The attention of BEiT, EVA and Swin V2 hands the weight of a layer to `linear` and never calls the layer.
    """

    def __init__(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self._owners = {id(layer.weight): layer for _, layer in layers}
        self._by_call: Counter[nn.Module] = Counter()
        self._by_weight: Counter[nn.Module] = Counter()

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
        return output

    def called(self, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        """Forward hook of every layer: its outputs, divided by its output channels."""
        assert isinstance(layer.weight, Tensor)
        self._by_call[self._owners[id(layer.weight)]] += output.numel() // layer.weight.shape[0]

    def of(self, layer: nn.Module) -> int:
        """Return the positions counted for `layer`."""
        return self._by_call[layer] or self._by_weight[layer]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
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


def storage_bytes(layers: Iterable[LayerCost], rows: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of the prunable weights in float32, by format.

    `dense`: 4 per weight. `bitmask`: one bit per weight, filled up to whole bytes in each layer, and 4 per
    nonzero. `csr`: each layer as a matrix of `rows` rows: 4 per nonzero value, 4 per column index, 4 per row
    pointer, of which there is one more than rows.

    Args:
        layers: the prunable layers.
        rows: output channels by layer name, `weight.shape[0]`.
    """
    dense = bitmask = csr = 0
    for layer in layers:
        dense += VALUE_BYTES * layer.n
        bitmask += -(-layer.n // 8) + VALUE_BYTES * layer.nonzero
        csr += 2 * VALUE_BYTES * layer.nonzero + VALUE_BYTES * (rows[layer.name] + 1)
    return {"dense": dense, "bitmask": bitmask, "csr": csr}


def supermask_bits(layers: Iterable[LayerCost], model: nn.Module) -> dict[str, int]:
    """Return the bits that tell a supermask network to someone who has its architecture and the rule of its weights.

    `mask`: which `kept` of `n` positions each layer keeps, log2 of the number of choices. `counts`: these numbers,
    one of n + 1 per layer. `seed`: of the frozen weights. `extras`: 32 per frozen number that no rule gives
    (position embeddings, tokens, layer scales). `statistics`: 32 per running mean and variance, which
    come from the data.

    Args:
        layers: the prunable layers.
        model: the plain network.
    """
    layers = list(layers)
    bits = {
        "mask": sum(math.ceil(_log2_choices(layer.n, layer.kept)) for layer in layers),
        "counts": sum(layer.n.bit_length() for layer in layers),
        "seed": SEED_BITS,
        "extras": VALUE_BITS * extras(model),
        "statistics": VALUE_BITS * sum(b.numel() for b in model.buffers() if b.is_floating_point()),
    }
    return {**bits, "total": sum(bits.values())}


def _log2_choices(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def forget_peak_memory(device: torch.device) -> None:
    """Let the peak start from what is in use now: a process may carry out one run after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # elsewhere than on Linux the peak stays that of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device | str) -> int:
    """Return the most memory used since it was last forgotten: allocated on a GPU, or resident of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        # Of these pages alone: a process starts with the peak of the one that started it as its `ru_maxrss`.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
