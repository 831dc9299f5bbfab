"""Networks whose paths the tests of `pruneboard.models.cost` follow."""

from __future__ import annotations

import timm
import torch
from torch import nn

import networks  # noqa: F401 - registers the tiny ones
from pruneboard.models import prunable_layers

FAMILIES = {
    "resnet8_cifar": 32,
    "test_resnet": 64,
    "tiny_vgg": 32,
    "mobilenetv3_small_050": 32,
    "test_efficientnet": 32,
    "test_convnext": 32,
    "test_vit": 160,
    "tiny_swin": 32,
    "tiny_mixer": 32,
    "test_nfnet": 32,
    "tiny_beit": 32,
}
"""Image size in pixels by network."""


class OneLayer(nn.Module):
    """One linear layer, and a function of its output and its weight."""

    def __init__(self, function) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x.flatten(1)), self.fc.weight)


def without_constants(name, sparsity):
    """Return a network without biases and position embeddings, randomly pruned, and with a nonzero classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=10).eval()
        with torch.no_grad():
            for path, parameter in net.named_parameters():
                if parameter.ndim < 2 and not path.endswith("weight") and "gain" not in path and "gamma" not in path:
                    parameter.zero_()
                if path.endswith(("pos_embed", "cls_token", "bias_table")):
                    parameter.zero_()
            for _, layer in prunable_layers(net):
                drawn = torch.randn(layer.weight.shape) / layer.weight[0].numel() ** 0.5
                layer.weight.copy_(drawn * (torch.rand(layer.weight.shape) >= sparsity))
    return net
