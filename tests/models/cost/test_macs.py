"""Multiply-adds, against counts by hand and by PyTorch."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import networks  # noqa: F401 - registers the tiny ones
from pruneboard import models  # noqa: F401 - registers the names
from pruneboard.models import prunable_layers
from pruneboard.models.cost import MACS_DEFINITION, LayerCost, positions, train_macs, usage

# ResNet-20 for ten classes at 32 px, by hand: weights (outputs x inputs x kernel x kernel), positions (side x side) and
# multiply-adds of each layer.
RESNET20 = {
    "body.conv1": (16 * 3 * 9, 32 * 32, 442_368),
    **{f"body.stage1.{b}.conv{c}": (16 * 16 * 9, 32 * 32, 2_359_296) for b in range(3) for c in (1, 2)},
    "body.stage2.0.conv1": (32 * 16 * 9, 16 * 16, 1_179_648),
    "body.stage2.0.conv2": (32 * 32 * 9, 16 * 16, 2_359_296),
    "body.stage2.0.shortcut.0": (32 * 16, 16 * 16, 131_072),
    **{f"body.stage2.{b}.conv{c}": (32 * 32 * 9, 16 * 16, 2_359_296) for b in (1, 2) for c in (1, 2)},
    "body.stage3.0.conv1": (64 * 32 * 9, 8 * 8, 1_179_648),
    "body.stage3.0.conv2": (64 * 64 * 9, 8 * 8, 2_359_296),
    "body.stage3.0.shortcut.0": (64 * 32, 8 * 8, 131_072),
    **{f"body.stage3.{b}.conv{c}": (64 * 64 * 9, 8 * 8, 2_359_296) for b in (1, 2) for c in (1, 2)},
    "fc": (10 * 64, 1, 640),
}
RESNET20_TOTAL = 442_368 + 6 * 2_359_296 + 2 * (1_179_648 + 5 * 2_359_296 + 131_072) + 640


def costs(model, size) -> list[LayerCost]:
    """Return the cost of every prunable layer of a dense network."""
    where = positions(model, size)
    return [
        LayerCost(name, layer.weight.numel(), layer.weight.numel(), layer.weight.numel(), where[name])
        for name, layer in prunable_layers(model)
    ]


def macs(model, size) -> int:
    """Return the dense multiply-adds of one image."""
    return sum(layer.macs_dense for layer in costs(model, size))


def test_resnet20_equals_a_count_by_hand():
    """The multiply-adds of every layer match; they sum to the 40.8 million of the literature."""
    found = {c.name: (c.n, c.positions, c.macs_dense) for c in costs(timm.create_model("resnet20_cifar"), 32)}
    assert found == RESNET20
    assert list(found) == list(RESNET20)
    assert sum(total for _, _, total in found.values()) == RESNET20_TOTAL == 40_813_184


def described(name, **arguments):
    """Return a network on the meta device: counting needs only shapes, and a network of any size takes no time."""
    with torch.device("meta"):
        return timm.create_model(name, **arguments).eval()


def test_resnet50_equals_a_count_by_hand():
    """ResNet-50 at 224 px has 4,089,184,256 multiply-adds."""
    total = 64 * 3 * 49 * 112**2  # 7x7, stride 2: 112 x 112 pixels, of which the max-pool leaves 56 x 56
    inputs = 64
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            before = side * (2 if block == 0 and width > 64 else 1)  # the 3x3 has the stride: the 1x1 sees all pixels
            total += inputs * width * before**2
            total += width * width * 9 * side**2 + width * 4 * width * side**2
            total += inputs * 4 * width * side**2 if block == 0 else 0  # the shortcut that changes the channels
            inputs = 4 * width
    total += 2048 * 1000
    assert macs(described("resnet50"), 224) == total == 4_089_184_256


def test_resnet32_equals_a_count_by_hand():
    """ResNet-32 of widths 32, 64, 128 at 32 px has 275,612,928 multiply-adds."""
    total = 32 * 3 * 9 * 32**2
    inputs = 32
    for width, side in ((32, 32), (64, 16), (128, 8)):
        convolutions = [inputs * width * 9] + 9 * [width * width * 9]  # five blocks of two
        shortcut = inputs * width if inputs != width else 0
        total += (sum(convolutions) + shortcut) * side**2
        inputs = width
    total += 128 * 10
    assert macs(described("resnet32_cifar"), 32) == total == 275_612_928


def test_vgg19_equals_a_count_by_hand():
    """VGG-19 with one linear layer at 32 px has 398,136,320 multiply-adds."""
    total, inputs = 0, 3
    for width, convolutions, side in ((64, 2, 32), (128, 2, 16), (256, 4, 8), (512, 4, 4), (512, 4, 2)):
        for _ in range(convolutions):
            total += inputs * width * 9 * side**2
            inputs = width
    total += 512 * 10
    assert macs(described("vgg19_cifar"), 32) == total == 398_136_320


def test_a_vision_transformer_equals_a_count_by_hand():
    """DeiT-Ti at 224 px has 1,074,851,328 multiply-adds with weights, and 178,831,872 in the products of attention."""
    width, tokens, blocks = 192, 14 * 14 + 1, 12  # patches of 16 px, and the class token
    patches = 3 * 16 * 16 * width * 14 * 14
    block = (width * 3 * width + width * width + 2 * width * 4 * width) * tokens  # q, k, v; projection; two of the MLP
    head = width * 1000  # of the class token alone
    # Over all heads: each query by each key, and each attention weight by its value, both as wide as the network.
    products = 2 * tokens * tokens * width
    for name in ("deit_tiny_patch16_224", "vit_tiny_patch16_224"):
        model = described(name)
        assert macs(model, 224) == patches + blocks * block + head == 1_074_851_328
        assert usage(model, 224).attention == blocks * products == 178_831_872


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet20_cifar", 32),
        ("vgg19_cifar", 32),
        ("resnet18_small_stem", 32),
        ("resnet50", 224),
        ("resnext50_32x4d", 64),
        ("mobilenetv3_small_050", 64),
        ("convnext_tiny", 64),
    ],
)
def test_totals_agree_with_pytorch(name, size):
    """PyTorch counts two operations per multiply-add, also for grouped and depthwise convolutions."""
    model = described(name)
    assert operations(model, size) == (2 * macs(model, size), 0)
    assert usage(model, size).attention == 0


def operations(model, size):
    """Return PyTorch's count of floating-point operations for one image: of layers, and of products of activations."""
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    # The math backend: not every version of torch counts the fused attention of a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image)
    by_operation = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for op, flops in by_operation.items() if "attention" in op or "bmm" in op)
    return counter.get_total_flops() - products, products


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 160), ("tiny_swin", 32), ("tiny_swin_v2", 32), ("tiny_beit", 32), ("test_vit", 0)]
)
def test_attention_agrees_with_pytorch(name, size):
    """PyTorch counts the same for layers and for products of activations, fused or not."""
    model = timm.create_model(name).eval()
    for module in model.modules():
        module.fused_attn = bool(size)
    found = usage(model, size or 160)
    assert found.attention > 0
    assert operations(model, size or 160) == (2 * macs(model, size or 160), 2 * found.attention)


class Products(nn.Module):
    """Multiplies activations in several ways, and once by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.heads = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        x = x[0]  # [3, 5, 5]
        x = torch.bmm(x, x) + x @ x.mT + torch.baddbmm(x, x, batch2=x)
        x = x + torch.einsum("...ij,...jk->...ik", x, x) + torch.einsum("bij,bjk", x, x)
        tokens = x[:2, :, :4].reshape(10, 1, 4)
        return self.fc(x) + x @ self.fc.weight.t() + self.heads(tokens, tokens, tokens)[0].sum()


def test_products_of_activations_are_counted_in_every_spelling():
    """Five spellings of a product of three 5x5 matrices count, and attention; a product by a weight does not."""
    assert usage(Products(), 5).attention == 5 * 3 * 5**3 + 2 * 10 * 10 * 4


def test_weights_used_without_calling_the_layer_are_counted():
    """EVA passes the weights of its qkv layers to `linear` itself; each is used once per token."""
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1)
    where = positions(model, 28)
    assert where["blocks.0.attn.qkv"] == where["blocks.0.attn.proj"] == 2 * 2 + 1
    assert all(where.values())


class Twice(nn.Module):
    """Calls one layer twice, another never, and passes the weight of a called layer to `linear` as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = self.conv(self.conv(x)).mean((2, 3))
        return self.fc(x) + functional.linear(x, weight=self.fc.weight)


def test_repeated_calls_add_up():
    """A layer that is called twice has twice the positions, one that is never called has 0."""
    assert positions(Twice(), 5) == {"conv": 50, "unused": 0, "fc": 1}


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(5, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 3]),
)
def test_a_convolution_equals_a_written_out_sum(size, kernel, stride, padding, groups):
    """Weights times positions equal a sum over outputs, inputs per group and kernel positions."""
    conv = nn.Conv2d(3, 6, kernel, stride=stride, padding=padding, groups=groups)
    side = (size + 2 * padding - kernel) // stride + 1
    expected = sum(kernel * kernel * (3 // groups) for _ in range(6 * side * side))
    assert macs(nn.Sequential(conv), size) == expected


def test_counting_does_not_change_the_network():
    """Modes, buffers, hooks and random state stay the same, even if the network raises an error."""
    failing = nn.Conv2d(1, 1, 3)
    model = timm.create_model("test_resnet", drop_rate=0.5, drop_path_rate=0.5).train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    positions(model, 64)
    with pytest.raises(RuntimeError):
        positions(nn.Sequential(model, failing), 64)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not [module for module in model.modules() if module._forward_hooks]


def test_zeros_cost_nothing():
    """Remaining multiply-adds are those of nonzero weights; kept zeros do not count."""
    layer = LayerCost("fc", n=100, kept=20, nonzero=15, positions=7)
    assert (layer.macs_dense, layer.macs_remaining) == (700, 105)


def test_zeros_of_a_standardized_kernel_cost_as_much_as_other_weights():
    """A standardized layer keeps all of its multiply-adds."""
    layer = LayerCost("conv", n=100, kept=20, nonzero=15, positions=7, standardized=True)
    assert layer.macs_remaining == layer.macs_dense == 700


def test_training_is_three_forward_passes():
    """Every pass of an image costs a forward pass and the gradients of inputs and weights, at any sparsity."""
    assert train_macs(40_813_184, images=2 * 45_000) == 3 * 40_813_184 * 90_000


def test_training_cost_is_linear():
    """The training costs of layers add up to the cost of the network."""
    layers = [LayerCost("a", 10, 5, 5, 4), LayerCost("b", 6, 6, 6, 9)]
    assert train_macs(layers[0].macs_dense, 7) == 3 * 40 * 7
    assert sum(train_macs(layer.macs_dense, 7) for layer in layers) == train_macs(40 + 54, 7)


def test_counting_works_on_a_gpu(cuda):
    """The count of a network on a GPU is that of the same network on the CPU."""
    model = timm.create_model("resnet20_cifar").cuda()
    assert sum(c.macs_dense for c in costs(model, 32)) == RESNET20_TOTAL


def test_the_definition_states_unit_and_scope():
    """The sentence that accompanies every count defines a MAC and a FLOP."""
    assert "one multiply-add = 1 MAC" in MACS_DEFINITION
    assert "FLOPs = 2 x MACs" in MACS_DEFINITION
