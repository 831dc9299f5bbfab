"""Following paths, against every path of small networks, and the networks that are undecided."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from path_cases import OneLayer
from pruneboard.models import prunable_layers
from pruneboard.models.cost import UndecidedError, alive_weights, count_alive


def pruned(model, masks):
    """Set weights to 0 where masks are False, and to 1 elsewhere."""
    with torch.no_grad():
        for (_, layer), mask in zip(prunable_layers(model), masks, strict=True):
            layer.weight.copy_(torch.tensor(mask).reshape(layer.weight.shape))
    return model


def some_masks(data, *shapes):
    """Draw for each weight of each shape whether it is kept."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [data.draw(st.lists(st.booleans(), min_size=size, max_size=size)) for size in sizes]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_a_perceptron_equals_a_search_of_all_paths(first, second, outputs, data):
    """A weight is alive if a sequence of one unit per layer passes through it and only through kept weights."""
    widths = (3, first, second, outputs)
    shapes = [(after, before) for before, after in itertools.pairwise(widths)]
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(3, first), nn.ReLU(), nn.Linear(first, second), nn.GELU(), nn.Linear(second, outputs)
    )
    masks = some_masks(data, *shapes)
    found = alive_weights(pruned(net, masks), 1)
    kept = [torch.tensor(mask).reshape(shape) for mask, shape in zip(masks, shapes, strict=True)]
    expected = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
    for path in itertools.product(*map(range, widths)):
        steps = [(after, before) for before, after in itertools.pairwise(path)]
        if all(mask[step] for mask, step in zip(kept, steps, strict=True)):
            for alive, step in zip(expected, steps, strict=True):
                alive[step] = True
    assert all(torch.equal(one, other) for one, other in zip(found.values(), expected, strict=True))


class Residual(nn.Module):
    """A convolution with stride 2, a grouped one, a 1x1 one, a shortcut, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 2, 2, stride=2, padding=1), nn.BatchNorm2d(2)
        self.deep = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(2, 2, 1)
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu_()
        shortcut = x
        x = self.wide(functional.silu(self.deep(x)))
        x += shortcut
        return self.fc(functional.max_pool2d(x, 2).flatten(1))


def connections(net, size):
    """Yield every connection of `Residual` for one image: (from, to, weight), or None if it has no weight."""
    side = (size + 2 - 2) // 2 + 1
    for y, x, o, i, v, u in itertools.product(*map(range, (side, side, 2, 3, 2, 2))):
        row, column = 2 * y + v - 1, 2 * x + u - 1
        if 0 <= row < size and 0 <= column < size:
            yield ("image", i, row, column), ("stem", o, y, x), ("stem", (o, i, v, u))
    for y, x, c, v, u in itertools.product(*map(range, (side, side, 2, 3, 3))):
        row, column = y + v - 1, x + u - 1
        if 0 <= row < side and 0 <= column < side:
            yield ("stem", c, row, column), ("deep", c, y, x), ("deep", (c, 0, v, u))
    for y, x, o in itertools.product(range(side), range(side), range(2)):
        yield ("stem", o, y, x), ("sum", o, y, x), None
        for i in range(2):
            yield ("deep", i, y, x), ("sum", o, y, x), ("wide", (o, i, 0, 0))
            if max(y, x) < 2:  # the pool leaves one pixel
                yield ("sum", i, y, x), ("logit", o), ("fc", (o, i))


def reachable(edges, sources):
    """Return every node that a sequence of edges connects with `sources`."""
    reached = set(sources)
    while new := {after for before, after, _ in edges if before in reached and after not in reached}:
        reached |= new
    return reached


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_residual_network_equals_a_search_of_all_connections(data):
    """A weight is alive if one of its uses, pixel by pixel, connects the image with a logit."""
    net = Residual()
    shapes = {name: layer.weight.shape for name, layer in prunable_layers(net)}
    masks = some_masks(data, *shapes.values())
    found = alive_weights(pruned(net, masks), 4)
    kept = {name: torch.tensor(m).reshape(s) for (name, s), m in zip(shapes.items(), masks, strict=True)}
    edges = [edge for edge in connections(net, 4) if edge[2] is None or kept[edge[2][0]][edge[2][1]]]
    from_image = reachable(edges, [("image", *place) for place in itertools.product(range(3), range(4), range(4))])
    to_logit = reachable([(after, before, weight) for before, after, weight in edges], [("logit", 0), ("logit", 1)])
    expected = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for before, after, weight in edges:
        if weight and before in from_image and after in to_logit:
            expected[weight[0]][weight[1]] = True
    assert all(torch.equal(found[name], expected[name]) for name in shapes)


def test_depth_does_not_overflow():
    """400 layers of width 30 have 30^400 paths, more than the largest float64; all weights are alive."""
    deep = nn.Sequential(nn.Flatten(), nn.Linear(3, 30), *(nn.Linear(30, 30) for _ in range(400)), nn.Linear(30, 2))
    for parameter in deep.parameters():
        parameter.data.fill_(0.1)  # not random: of so many draws, some would be exactly 0
    assert sum(count_alive(deep, 1).alive.values()) == 3 * 30 + 400 * 900 + 60


class Doubled(torch.autograd.Function):
    """Has a hand-written derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 0 * grad


def assign_into_a_constant(x, _):
    """Write into a constant."""
    found = torch.zeros(1, 2)
    found[:] = x
    return found


UNDECIDED = {
    "uses bicubic interpolation": lambda x, _: functional.interpolate(x[None, None], (3, 3), mode="bicubic").flatten(1),
    "cumsum": lambda x, _: x.cumsum(1),
    "item": lambda x, _: x * x.sum().item(),
    "bool": lambda x, _: x if x.sum() > 0 else -x,
    "detach": lambda x, _: x.detach() + x,
    "a custom derivative": lambda x, _: Doubled.apply(x),
    "setitem": assign_into_a_constant,
    "modifies a constant": lambda x, _: torch.zeros(1, 2).add_(x),
    "not a tensor that depends on the image": lambda x, _: (x, x),
    "prunable weight in": lambda x, weight: x + weight.sum(),
    "weights depend on the image": lambda x, _: functional.linear(torch.ones(1, 2), x),
    "hides": lambda x, _: torch.add(x, x, out=torch.zeros(1, 2)),
}
"""Part of the reason -> a function of a layer's output and weight that no rule covers."""


@pytest.mark.parametrize("what", UNDECIDED)
def test_an_undecided_network_gives_a_reason_and_no_count(what):
    """The one-line reason names the operation that no rule covers."""
    net = OneLayer(UNDECIDED[what])
    found = count_alive(net, 1)
    assert found.alive is None
    assert "\n" not in found.undecided
    if what != "bool":
        assert what in found.undecided
    with pytest.raises(UndecidedError):
        alive_weights(net, 1)
