"""Rules for single operations, against the effect of changed inputs on real values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from path_cases import OneLayer
from pruneboard.models.cost import alive_weights, count_alive
from pruneboard.models.cost.reach import FollowPaths
from pruneboard.models.cost.tracked import Flow

SHAPE = (1, 4, 4, 4)
CONSTANT = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5

OPERATIONS = {
    "gelu": functional.gelu,
    "add a constant": lambda x: x + CONSTANT,
    "multiply by a constant": lambda x: CONSTANT * x,
    "shift and add": lambda x: x + x.roll(1, 2),
    "mean": lambda x: x.mean((2, 3)),
    "pad": lambda x: functional.pad(x, (1, 0, 2, 0)),
    "concatenate": lambda x: torch.cat([x[:, :2], CONSTANT, x[:, 2:]], 1),
    "split": lambda x: x.chunk(2, 1)[1] + x.chunk(2, 1)[0].transpose(2, 3),
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: functional.layer_norm(x, (4,)),
    "group norm": lambda x: functional.group_norm(x, 2),
    "batch norm": lambda x: functional.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double()),
    "average pool": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "max pool": lambda x: functional.max_pool2d(x, 2, 1),
    "adaptive max pool": lambda x: functional.adaptive_max_pool2d(x, (1, 1)),
    "enlarge": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "depthwise convolution": lambda x: functional.conv2d(x, CONSTANT[0, :, None, :3, :3].abs(), groups=4),
    "product of activations": lambda x: x @ CONSTANT,
    "attention": lambda x: functional.scaled_dot_product_attention(CONSTANT, CONSTANT.roll(1, 3), x),
}
"""Functions of a tensor of `SHAPE`."""


def reached(operation, flow):
    """Return the paths that leave an operation, given those that enter it."""
    with FollowPaths():
        return operation(flow.as_subclass(Flow))


def changed(operation, mask):
    """Return which outputs some of several large random changes of the inputs in `mask` affect."""
    generator = torch.Generator().manual_seed(1)
    inputs, *changes = torch.randn(33, *SHAPE, generator=generator, dtype=torch.float64)
    before = operation(inputs)
    return torch.stack([(operation(inputs + 4 * mask * each) - before).abs() > 1e-9 for each in changes]).any(0)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_paths_arrive_where_changed_inputs_change_the_output(name, data):
    """For random sets of reached inputs, the reached outputs are exactly those that depend on these inputs."""
    number = torch.Size(SHAPE).numel()
    mask = torch.zeros(number, dtype=torch.float64)
    mask[data.draw(st.lists(st.integers(0, number - 1), max_size=4))] = 1
    mask = mask.reshape(SHAPE)
    operation = OPERATIONS[name]
    assert torch.equal(reached(operation, mask) > 0, changed(operation, mask))


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_positive_at_the_inputs_that_affect_an_output(name):
    """Backward from single outputs, the gradient is positive exactly at the inputs that change this output."""
    operation = OPERATIONS[name]
    flow = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
    outputs = reached(operation, flow).flatten()
    singles = torch.eye(flow.numel(), dtype=torch.float64).reshape(-1, *SHAPE)
    affected = torch.stack([changed(operation, single).flatten() for single in singles])  # [input, output]
    for index in range(0, len(outputs), max(1, len(outputs) // 4)):
        (gradient,) = torch.autograd.grad(outputs[index], flow, retain_graph=True)
        assert torch.equal(gradient.flatten() > 0, affected[:, index])


def test_a_kernel_position_that_only_sees_padding_is_disconnected():
    """Of a 3x3 kernel on maps of one pixel only the center is alive, in a dense network too."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2, 2))
    alive = alive_weights(net, 1)["0"]
    assert alive[:, :, 1, 1].all()
    assert alive.sum() == 2 * 3


class Heads(nn.Module):
    """Attention with one head of two channels over the pixels of an image, fused or written out."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v, self.out = (nn.Linear(*sizes) for sizes in ((3, 2), (3, 2), (3, 2), (2, 2)))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1) * 0.7).softmax(dim=-1) @ v
        return self.out(x).mean(1)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_passes_on_channels_of_the_values(fused):
    """A channel without values is constant, whatever attends to it; without any values, queries and keys are dead."""
    net = Heads(fused=fused)
    assert all(mask.all() for mask in alive_weights(net, 2).values())
    with torch.no_grad():
        net.v.weight[0] = 0
    alive = {name: mask.sum().item() for name, mask in alive_weights(net, 2).items()}
    assert alive == {"q": 6, "k": 6, "v": 3, "out": 2}
    with torch.no_grad():
        net.q.weight.zero_()
    assert count_alive(net, 2).alive == {"q": 0, "k": 6, "v": 3, "out": 2}  # the query's bias still weights the keys
    with torch.no_grad():
        net.v.weight.zero_()
    assert set(count_alive(net, 2).alive.values()) == {0}


def test_computed_statistics_connect_channels_and_fixed_ones_do_not():
    """An unread channel changes the mean of the others in layer and group normalization, not in batch normalization."""
    for norm, expected in ((nn.LayerNorm([2, 1, 1]), 6), (nn.GroupNorm(1, 2), 6), (nn.BatchNorm2d(2), 3)):
        net = nn.Sequential(nn.Conv2d(3, 2, 1), norm, nn.Flatten(), nn.Linear(2, 1))
        with torch.no_grad():
            net[3].weight[0, 1] = 0
        assert count_alive(net, 1).alive["0"] == expected


def test_interpolation_connects_the_neighbors_of_a_pixel():
    """An output pixel of an enlarged map is connected with the input pixels around it."""
    net = OneLayer(lambda x, _: functional.interpolate(x[None], scale_factor=3, mode="linear")[..., :3])
    assert count_alive(net, 1).alive == {"fc": 6}
    net.function = lambda x, _: functional.interpolate(x[None], scale_factor=3)[..., :3]
    assert count_alive(net, 1).alive == {"fc": 3}
