"""Effective sparsity: weights that are cut off from the input or from the output do not count as left.

A weight that is not 0 is *alive* if it lies on a path from the input to an output, and cut off if it lies on none
(arXiv:2107.02306). The effective sparsity is the share of the prunable weights that are not alive; it is never
below the measured one. Paths are followed through the network as it is used, at its image size, so a position of a
kernel that only ever sees padding is cut off, in a dense network too.

What is a path:

* **Weights.** Through a convolution or linear layer, from an element of its input to one of its output, along every
  weight that is not 0. A standardized kernel (NFNet, BiT) has no position that is 0 unless its filter is all zeros:
  every position is passed. Weights outside the scope are all passed.
* **Constants.** A bias, a normalization's shift, a position embedding or a class token starts no path, so a channel
  that only they reach is dead, though it is a constant and not 0: what it adds later layers could hold as a bias. What
  reads nothing that comes from the image (the tables of relative positions of Swin V2) starts at an input of its own.
* **Elementwise.** A residual sum, and a product of two activations (gates), is reached if either side is: a constant
  factor is taken for one that is not 0. Activation functions pass on what they are given, and scales are taken for
  numbers that are not 0.
* **Normalization.** Batch normalization keeps channels apart: its statistics are fixed. Layer, group and RMS
  normalization compute theirs from what they normalize, so that every element reaches every other: what comes into
  them alive leaves them on all channels.
* **Attention.** A channel of the output is reached through that channel of the values, of any token: where these are
  one constant, so is their average. Queries and keys are on a path where some channel of the values is. The product of
  queries and keys is reached if either side is.
* **Pooling** of any kind passes all elements of a window.

So what a weight that is cut off adds is a constant, which biases could hold as well, and of some weights `alive` is
said too often (behind a gate that is 0 for every image). The one exception are values that position embeddings alone
reach, with no layer normalization on the way: they differ from token to token, and what attention makes of them
follows the image. Where a network does what no rule here covers, the
answer is None, with the operation that was not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruneboard.models import prunable_layers
from pruneboard.models.cost.kinds import Flow, Kernel, UndecidedError
from pruneboard.models.cost.macs import evaluating
from pruneboard.models.cost.reach import Following, gradients


@dataclass(frozen=True)
class Effective:
    """What is left of a pruned network.

    Attributes:
        alive: by prunable layer, its weights that lie on a path; None where it cannot be decided.
        why: why it cannot be.
    """

    alive: Mapping[str, int] | None
    why: str | None = None


def effective(model: nn.Module, image_size: int) -> Effective:
    """Count the weights of a network that lie on a path from input to output; the arguments are those of `on_paths`."""
    try:
        return Effective({name: int(alive.sum()) for name, alive in on_paths(model, image_size).items()})
    except UndecidedError as error:
        return Effective(None, str(error))
    except Exception as error:  # noqa: BLE001 - a network may do anything with tensors that are none, and its run is over
        return Effective(None, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")


def on_paths(model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Return by prunable layer which of its weights lie on a path from input to output, bool, of the weight's shape.

    The network is run once forward and once back on one image, in float64, on its device and in evaluation mode, with
    every operation replaced by what it does to paths (`reach`); nothing of it changes.

    Args:
        model: a plain network (no gates attached) for images of three channels.
        image_size: side of the image, in pixels.

    Raises:
        UndecidedError: the network does what no rule covers; the message names it.
    """
    layers = dict(prunable_layers(model))
    held = {id(layer.weight): name for name, layer in layers.items()}
    kept = {name: layer.get_parameter("weight") != 0 for name, layer in layers.items()}
    masks = {name: mask.double().requires_grad_() for name, mask in kept.items()}
    state = {
        name: masks[held[id(parameter)]].as_subclass(Kernel) if id(parameter) in held else parameter.detach()
        for name, parameter in model.named_parameters()
    }
    device = next(iter(masks.values())).device
    image = torch.ones(1, 3, image_size, image_size, dtype=torch.float64, device=device, requires_grad=True)
    with evaluating(model), torch.enable_grad(), Following():
        output = functional_call(model, state, (image.as_subclass(Flow),))
    found = gradients(output, list(masks.values()))
    return {name: (grad > 0) & kept[name] for name, grad in zip(masks, found, strict=True)}
