"""Shared by the tests of SNIP and SynFlow: small networks in float64, and the harness's view of them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pruneboard.models import gated_layers
from pruneboard.scores import budget, top_k
from pruneboard.training.gates import DrawKey, attach
from pruneboard.training.scoring import ScoringView

SIDE = 8


def seeded(build, seed=0):
    """The module that `build` makes, with random numbers from this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _plain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def _normalized():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(108, 10),
    )


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        x = self.stem(images).relu()
        return self.head((x + self.norm(self.inner(x))).relu().mean((2, 3)))


BUILDS = {"plain": _plain, "normalized": _normalized, "residual": _Residual}


def network(name, seed=0):
    """One of BUILDS in float64, whose scales, shifts and statistics differ from those of a new network."""
    net = seeded(BUILDS[name], seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2, generator=generator)
                module.bias.uniform_(-1, 1, generator=generator)
                module.running_mean.uniform_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return net


def viewed(pruner, net, label_smoothing=0.0, side=SIDE) -> ScoringView:
    """The view of a gated copy of `net`; `net` itself stays plain."""
    gated = copy.deepcopy(net)
    layers = attach(pruner, gated_layers(gated), DrawKey(0), hits_target=True)
    return ScoringView(gated, layers, side, label_smoothing)


def batch(count=32, seed=0):
    """Images in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE, dtype=torch.float64, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def masks_of(view, scores):
    """The masks that the harness makes from scores."""
    return top_k(scores, budget(view.layers))


def no_data():
    """A batch stream that fails when it is read."""
    raise AssertionError("this method needs no data")
    yield
