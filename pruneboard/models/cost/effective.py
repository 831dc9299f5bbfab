"""Effective sparsity: the sparsity when weights that cannot affect the output count as pruned.

A nonzero weight is *alive* if it lies on a path from the input to an output, and disconnected otherwise
(arXiv:2107.02306). The effective sparsity is the fraction of prunable weights that are not alive; it is never below
the measured sparsity. Paths are followed through the network at its image size, so a kernel position that only ever
sees padding is disconnected, in a dense network too.

Rules for paths:

* **Weights.** A convolution or linear layer connects an element of its input to an element of its output through every
  nonzero weight. In a weight-standardized kernel (NFNet, BiT) no position is 0 unless its whole filter is 0: the path
  passes through every position. Weights outside the prunable scope all count as nonzero.
* **Constants.** Biases, normalization shifts, position embeddings and class tokens start no path. A channel that only
  they reach is a nonzero constant, but dead: biases of later layers could hold its contribution. A layer whose input
  does not depend on the image (the tables of relative positions of Swin V2) counts as having an input of its own.
* **Elementwise.** A residual sum or a product of two activations (a gate) is reached if either operand is: a constant
  factor is assumed to be nonzero. Activation functions keep paths as they are, and scales are assumed to be nonzero.
* **Normalization.** Batch normalization keeps channels separate, because its statistics are fixed. Layer, group and RMS
  normalization compute statistics from their input, so every element that they normalize together reaches every other.
* **Attention.** An output channel is reached if that channel of the values is reached at any token: the average of
  equal constants is the same constant, whatever the attention weights are. Queries and keys are on a path if some
  channel of the values is. The product of queries and keys is reached if either of them is.
* **Pooling** of any kind connects every element of a window to its output.

The rules err in one direction: a disconnected weight contributes at most a constant, which biases could hold, but some
weights count as alive although they have no effect (such as behind a gate that is 0 for every image). The only
exception are values that only position embeddings reach, without layer normalization in between: they differ from token
to token, so the result of attention over them depends on the image.

A network is *undecided* if it uses an operation that no rule covers. Then there is no count but the name of the
operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruneboard.models import prunable_layers
from pruneboard.models.cost.macs import eval_mode
from pruneboard.models.cost.reach import FollowPaths, path_gradients
from pruneboard.models.cost.tracked import Flow, UndecidedError, WeightMask


@dataclass(frozen=True)
class AliveCounts:
    """Number of alive weights of a pruned network.

    Attributes:
        alive: alive weights by prunable layer; None if undecided.
        undecided: the reason, if undecided.
    """

    alive: Mapping[str, int] | None
    undecided: str | None = None


def count_alive(model: nn.Module, image_size: int) -> AliveCounts:
    """Count the weights on a path from input to output; the arguments are those of `alive_weights`."""
    try:
        return AliveCounts({name: int(alive.sum()) for name, alive in alive_weights(model, image_size).items()})
    except UndecidedError as error:
        return AliveCounts(None, str(error))
    except Exception as error:  # noqa: BLE001 - stand-in tensors can fail anywhere, and must not fail a finished run
        return AliveCounts(None, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")


def alive_weights(model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Return for each prunable layer which of its weights lie on a path from input to output.

    Runs the network forward and backward once on one image, in float64 and evaluation mode, on the network's device.
    `FollowPaths` replaces each operation by its effect on paths. The network does not change.

    Args:
        model: a plain network (no gates attached) for images of three channels.
        image_size: side of the image, in pixels.

    Returns:
        By layer name, a bool tensor of the weight's shape.

    Raises:
        UndecidedError: the network uses an operation that no rule covers; the message names it.
    """
    layers = dict(prunable_layers(model))
    names = {id(layer.weight): name for name, layer in layers.items()}
    kept = {name: layer.get_parameter("weight") != 0 for name, layer in layers.items()}
    # float64 leaves of 0 and 1. The forward pass is positive at a position if a path from the input arrives there; the
    # gradient of the summed output is positive at a weight if, besides, a path leads from there to the output.
    masks = {name: mask.double().requires_grad_() for name, mask in kept.items()}
    state = {
        name: masks[names[id(parameter)]].as_subclass(WeightMask) if id(parameter) in names else parameter.detach()
        for name, parameter in model.named_parameters()
    }
    device = next(iter(masks.values())).device
    image = torch.ones(1, 3, image_size, image_size, dtype=torch.float64, device=device, requires_grad=True)
    with eval_mode(model), torch.enable_grad(), FollowPaths():
        output = functional_call(model, state, (image.as_subclass(Flow),))
    found = path_gradients(output, list(masks.values()))
    # A pruned weight has a positive gradient where a path would exist with it: only kept ones are alive.
    return {name: (grad > 0) & kept[name] for name, grad in zip(masks, found, strict=True)}
