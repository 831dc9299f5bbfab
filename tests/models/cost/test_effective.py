"""Effective sparsity, against every path written out, and against what networks answer without what is cut off."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import networks
from pruneboard.models import prunable_layers
from pruneboard.models.cost import UndecidedError, alive_weights, count_alive

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
"""Network -> pixels."""


def pruned(model, masks):
    """Set weights to 0 where masks say so, and to 1 elsewhere."""
    with torch.no_grad():
        for (_, layer), mask in zip(prunable_layers(model), masks, strict=True):
            layer.weight.copy_(torch.tensor(mask).reshape(layer.weight.shape))
    return model


def some_masks(data, *shapes):
    """Draw whether to keep each weight of each shape."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [data.draw(st.lists(st.booleans(), min_size=size, max_size=size)) for size in sizes]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_in_a_perceptron_every_path_is_tried(first, second, outputs, data):
    """A weight is alive if some sequence of one unit per layer passes it and only weights that are left."""
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
    """Three convolutions, one of stride 2 and one in groups, a shortcut that changes no shape, a pool, a classifier."""

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


def wiring(net, size):
    """Yield every connection of `Residual` on one image: (from, to, weight), or None where there is no weight."""
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


def walks(edges, sources):
    """Return every node that some way along edges leads to, each step tried until none is new."""
    reached = set(sources)
    while new := {after for before, after, _ in edges if before in reached and after not in reached}:
        reached |= new
    return reached


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_in_a_residual_network_every_connection_is_followed(data):
    """A weight is alive if one of its uses, pixel by pixel, stands between the image and a logit."""
    net = Residual()
    shapes = {name: layer.weight.shape for name, layer in prunable_layers(net)}
    masks = some_masks(data, *shapes.values())
    found = alive_weights(pruned(net, masks), 4)
    kept = {name: torch.tensor(m).reshape(s) for (name, s), m in zip(shapes.items(), masks, strict=True)}
    edges = [edge for edge in wiring(net, 4) if edge[2] is None or kept[edge[2][0]][edge[2][1]]]
    ahead = walks(edges, [("image", *place) for place in itertools.product(range(3), range(4), range(4))])
    behind = walks([(after, before, weight) for before, after, weight in edges], [("logit", 0), ("logit", 1)])
    expected = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for before, after, weight in edges:
        if weight and before in ahead and after in behind:
            expected[weight[0]][weight[1]] = True
    assert all(torch.equal(found[name], expected[name]) for name in shapes)


def without_constants(name, sparsity):
    """Return a network without biases and position embeddings, pruned at random, and with a head that is not 0."""
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


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_cut_off_is_not_missed(name):
    """Where there are no constants, a network answers the same without its weights that are cut off; some are."""
    size = FAMILIES[name]
    net = without_constants(name, 0.97)
    alive = alive_weights(net, size)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = net(images)
        left = sum(int((layer.weight != 0).sum()) for _, layer in prunable_layers(net))
        for path, layer in prunable_layers(net):
            assert not (alive[path] & (layer.weight == 0)).any()
            layer.weight *= alive[path]
        after = net(images)
    assert sum(int(mask.sum()) for mask in alive.values()) < left
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-6)


def test_a_position_that_sees_padding_only_is_cut_off():
    """Of a 3x3 kernel on maps of one pixel the middle alone is alive, in a dense network."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2, 2))
    alive = alive_weights(net, 1)["0"]
    assert alive[:, :, 1, 1].all()
    assert alive.sum() == 2 * 3


class Heads(nn.Module):
    """Attention of one head of two channels over the pixels of an image, fused or written out."""

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
    """A channel of no value is a constant, whatever attends to it; without values, queries and keys are for nothing."""
    net = Heads(fused=fused)
    assert all(mask.all() for mask in alive_weights(net, 2).values())
    with torch.no_grad():
        net.v.weight[0] = 0
    alive = {name: mask.sum().item() for name, mask in alive_weights(net, 2).items()}
    assert alive == {"q": 6, "k": 6, "v": 3, "out": 2}
    with torch.no_grad():
        net.q.weight.zero_()
    assert count_alive(net, 2).alive == {"q": 0, "k": 6, "v": 3, "out": 2}  # its bias still weighs the keys
    with torch.no_grad():
        net.v.weight.zero_()
    assert set(count_alive(net, 2).alive.values()) == {0}


def test_statistics_are_paths_and_fixed_ones_are_not():
    """A channel that nothing reads still moves the others' mean under layer normalization, not batch normalization."""
    for norm, expected in ((nn.LayerNorm([2, 1, 1]), 6), (nn.GroupNorm(1, 2), 6), (nn.BatchNorm2d(2), 3)):
        net = nn.Sequential(nn.Conv2d(3, 2, 1), norm, nn.Flatten(), nn.Linear(2, 1))
        with torch.no_grad():
            net[3].weight[0, 1] = 0
        assert count_alive(net, 1).alive["0"] == expected


def test_a_weight_of_several_layers_is_alive_if_one_of_them_needs_it():
    """Shared weights count once; all their uses are followed."""
    net = networks.Tied()
    with torch.no_grad():
        net.first.weight.copy_(torch.eye(24))
    assert count_alive(net, 32).alive["first"] == 24


class Odd(nn.Module):
    """One layer, and something done to what comes out of it."""

    def __init__(self, how) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.how = how

    def forward(self, x):
        return self.how(self.fc(x.flatten(1)), self.fc.weight)


class Doubled(torch.autograd.Function):
    """A derivative that somebody wrote by hand."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 0 * grad


def in_place(x, _):
    """Write into a constant."""
    found = torch.zeros(1, 2)
    found[:] = x
    return found


ODD = {
    "uses bicubic interpolation": lambda x, _: functional.interpolate(x[None, None], (3, 3), mode="bicubic").flatten(1),
    "cumsum": lambda x, _: x.cumsum(1),
    "item": lambda x, _: x * x.sum().item(),
    "bool": lambda x, _: x if x.sum() > 0 else -x,
    "detach": lambda x, _: x.detach() + x,
    "a custom derivative": lambda x, _: Doubled.apply(x),
    "setitem": in_place,
    "modifies a constant": lambda x, _: torch.zeros(1, 2).add_(x),
    "not a tensor that depends on the image": lambda x, _: (x, x),
    "prunable weight in": lambda x, weight: x + weight.sum(),
    "weights depend on the image": lambda x, _: functional.linear(torch.ones(1, 2), x),
    "hides": lambda x, _: torch.add(x, x, out=torch.zeros(1, 2)),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_not_known_is_said(what):
    """No number is given for a network that does what no rule covers: the reason is, in one line."""
    net = Odd(ODD[what])
    found = count_alive(net, 1)
    assert found.alive is None
    assert "\n" not in found.undecided
    if what != "bool":
        assert what in found.undecided
    with pytest.raises(UndecidedError):
        alive_weights(net, 1)


def test_enlarged_maps_are_followed():
    """Every pixel of an enlarged map that is alive comes from those that it lies between."""
    net = Odd(lambda x, _: functional.interpolate(x[None], scale_factor=3, mode="linear")[..., :3])
    assert count_alive(net, 1).alive == {"fc": 6}
    net.how = lambda x, _: functional.interpolate(x[None], scale_factor=3)[..., :3]
    assert count_alive(net, 1).alive == {"fc": 3}


def test_following_changes_nothing():
    """Weights, modes, gradients and random states are the same behind as before, also where it is not decided."""
    for net, size in ((timm.create_model("test_resnet", drop_rate=0.5).train(), 64), (Odd(ODD["cumsum"]).train(), 1)):
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        random = torch.get_rng_state()
        count_alive(net, size)
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert all(type(p) is nn.Parameter and p.grad is None for p in net.parameters())
        assert all(module.training for module in net.modules())
        assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.gpu
def test_paths_are_the_same_on_a_gpu():
    """All numbers are whole and small, so where they are added makes no difference."""
    for name in ("test_resnet", "test_vit"):
        net, size = without_constants(name, 0.97), FAMILIES[name]
        assert count_alive(net, size).alive == count_alive(net.cuda(), size).alive


def test_depth_overflows_nothing():
    """Four hundred layers of width 30 have more paths than float64 holds numbers, 30^400, and all are followed."""
    deep = nn.Sequential(nn.Flatten(), nn.Linear(3, 30), *(nn.Linear(30, 30) for _ in range(400)), nn.Linear(30, 2))
    for parameter in deep.parameters():
        parameter.data.fill_(0.1)  # of so many drawn ones, one is exactly 0 now and then
    assert sum(count_alive(deep, 1).alive.values()) == 3 * 30 + 400 * 900 + 60
