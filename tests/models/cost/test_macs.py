"""Multiply-adds, bytes and memory, against counts made by hand and by PyTorch."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.sparse
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
from pruneboard.models.cost import (
    MACS_DEFINITION,
    LayerCost,
    compressed_bytes,
    peak_memory_bytes,
    positions,
    reset_peak_memory,
    storage,
    storage_bytes,
    train_macs,
    usage,
)

# ResNet-20 at 32x32 px, ten classes, by hand: outputs x inputs x kernel x kernel weights, side x side positions.
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
    """Return the cost of every prunable layer of the dense model."""
    where = positions(model, size)
    return [
        LayerCost(name, layer.weight.numel(), layer.weight.numel(), layer.weight.numel(), where[name])
        for name, layer in prunable_layers(model)
    ]


def macs(model, size) -> int:
    """Return the multiply-adds of one image."""
    return sum(layer.macs_dense for layer in costs(model, size))


def test_resnet20_by_hand():
    """Every layer of ResNet-20 has the multiply-adds counted by hand; they sum to the literature's 40.8 million."""
    found = {c.name: (c.n, c.positions, c.macs_dense) for c in costs(timm.create_model("resnet20_cifar"), 32)}
    assert found == RESNET20
    assert list(found) == list(RESNET20)
    assert sum(total for _, _, total in found.values()) == RESNET20_TOTAL == 40_813_184


def described(name, **arguments):
    """Return a network without numbers: shapes are all that counting needs, and full-size networks cost nothing."""
    with torch.device("meta"):
        return timm.create_model(name, **arguments).eval()


def test_resnet50_by_hand():
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


def test_resnet32_by_hand():
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


def test_vgg19_by_hand():
    """VGG-19 with one linear layer at 32 px has 398,136,320 multiply-adds."""
    total, inputs = 0, 3
    for width, convolutions, side in ((64, 2, 32), (128, 2, 16), (256, 4, 8), (512, 4, 4), (512, 4, 2)):
        for _ in range(convolutions):
            total += inputs * width * 9 * side**2
            inputs = width
    total += 512 * 10
    assert macs(described("vgg19_cifar"), 32) == total == 398_136_320


def test_vit_by_hand():
    """DeiT-Ti at 224 px has 1,074,851,328 multiply-adds with weights, and 178,831,872 in attention's products."""
    width, tokens, blocks = 192, 14 * 14 + 1, 12  # patches of 16 px, and the class token
    patches = 3 * 16 * 16 * width * 14 * 14
    block = (width * 3 * width + width * width + 2 * width * 4 * width) * tokens  # q, k, v; projection; two of the MLP
    head = width * 1000  # of the class token alone
    # Over all heads: every token's query by every key, and as many shares by values, each as wide as the network.
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
    """PyTorch's own counter finds twice as many operations as we find multiply-adds, also in groups and depthwise."""
    model = described(name)
    assert operations(model, size) == (2 * macs(model, size), 0)
    assert usage(model, size).attention == 0


def operations(model, size):
    """Return PyTorch's count of an image's floating-point operations: of layers, and of products of activations."""
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    # Written out: not every version of torch counts the fused attention of a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image)
    by_operation = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for op, flops in by_operation.items() if "attention" in op or "bmm" in op)
    return counter.get_total_flops() - products, products


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 160), ("tiny_swin", 32), ("tiny_swin_v2", 32), ("tiny_beit", 32), ("test_vit", 0)]
)
def test_attention_agrees_with_pytorch(name, size):
    """Layers and products of activations are each as PyTorch counts them, fused or written out."""
    model = timm.create_model(name).eval()
    for module in model.modules():
        module.fused_attn = bool(size)
    found = usage(model, size or 160)
    assert found.attention > 0
    assert operations(model, size or 160) == (2 * macs(model, size or 160), 2 * found.attention)


class Products(nn.Module):
    """Multiplies activations in many ways, and by its weight once."""

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


def test_products_of_activations_are_counted_however_they_are_written():
    """Three by 5x5x5 each, in five spellings; attention of 10 tokens of width 4; a product by a weight is none."""
    assert usage(Products(), 5).attention == 5 * 3 * 5**3 + 2 * 10 * 10 * 4


def test_weights_used_without_calling_the_layer_are_counted():
    """EVA hands the weight of its qkv layers to `linear` itself; each is used once per token."""
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1)
    where = positions(model, 28)
    assert where["blocks.0.attn.qkv"] == where["blocks.0.attn.proj"] == 2 * 2 + 1
    assert all(where.values())


class Twice(nn.Module):
    """Uses one layer twice, another never, and hands the weight of a called layer to `linear` as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.unused = nn.Linear(3, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        x = self.conv(self.conv(x)).mean((2, 3))
        return self.fc(x) + functional.linear(x, weight=self.fc.weight)


def test_repeated_calls_are_summed():
    """A layer called twice is used at twice the positions, one never called at none."""
    assert positions(Twice(), 5) == {"conv": 50, "unused": 0, "fc": 1}


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(5, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 3]),
)
def test_a_convolution_is_counted_by_its_output(size, kernel, stride, padding, groups):
    """Weights times positions is what a written-out sum over outputs, inputs per group and kernel gives."""
    conv = nn.Conv2d(3, 6, kernel, stride=stride, padding=padding, groups=groups)
    side = (size + 2 * padding - kernel) // stride + 1
    expected = sum(kernel * kernel * (3 // groups) for _ in range(6 * side * side))
    assert macs(nn.Sequential(conv), size) == expected


def test_measuring_changes_nothing():
    """Modes, buffers, hooks and random states are the same behind as before, also when the network fails."""
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
    """Remaining multiply-adds are those of nonzero weights; kept zeros are none."""
    layer = LayerCost("fc", n=100, kept=20, nonzero=15, positions=7)
    assert (layer.macs_dense, layer.macs_remaining) == (700, 105)


def test_training_is_three_forward_passes():
    """Training costs forward, input gradient and weight gradient for every image passed, however sparse."""
    assert train_macs(40_813_184, images=2 * 45_000) == 3 * 40_813_184 * 90_000


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_bytes_are_those_of_real_arrays(rows, columns, data):
    """Dense, bitmask and CSR bytes equal the sizes of the arrays that hold such a layer."""
    keep = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    weight = torch.tensor(keep, dtype=torch.float32).reshape(rows, columns)
    bits = sum(keep)
    layers = [LayerCost(name, weight.numel(), bits, bits, 1) for name in ("a", "b")]
    assert storage_bytes(layers, {"a": rows, "b": rows}) == {
        "dense": 2 * weight.nbytes,
        "bitmask": 2 * (len(bytes((rows * columns + 7) // 8)) + 4 * bits),
        "csr": 2 * bytes_of(scipy.sparse.csr_matrix(weight.numpy())),
    }


def bytes_of(csr) -> int:
    """Return the bytes of the three arrays of a matrix."""
    return csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes


@pytest.mark.parametrize("columns", [2**31 - 1, 2**31])
def test_indices_are_as_wide_as_scipy_makes_them(columns):
    """From 2^31 columns on an index has eight bytes."""
    matrix = scipy.sparse.coo_matrix(([1.0, 2.0], ([0, 1], [3, 5])), shape=(2, columns), dtype="float32").tocsr()
    assert storage_bytes([LayerCost("a", 2 * columns, 2, 2, 1)], {"a": 2})["csr"] == bytes_of(matrix)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(width=32, allow_nan=False)), min_size=1, max_size=40))
def test_what_is_compressed_can_be_read_back(values):
    """The stream is plain deflate: a bit per position, then the four byte planes of the values that are not 0."""
    weight = torch.tensor(values).reshape(1, -1)
    (stream,) = [storage._deflated(weight)]
    assert compressed_bytes([weight, weight]) == 2 * len(stream)
    found = zlib.decompress(stream, wbits=-15)
    bits = -(-len(values) // 8)
    kept = np.unpackbits(np.frombuffer(found[:bits], np.uint8), count=len(values)).astype(bool)
    restored = np.zeros(len(values), "<f4")
    restored[kept] = np.frombuffer(found[bits:], np.uint8).reshape(4, -1).T.copy().view("<f4").reshape(-1)
    assert np.array_equal(restored, weight.numpy()[0])


def test_compression_takes_what_there_is():
    """Signed constants come to little more than a bit each, and normal weights to less than their bitmask format."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(100, 1000, generator=generator)
    assert compressed_bytes([0.1 * drawn.sign()]) < 1.5 * drawn.numel() / 8 + 1000
    drawn[drawn.abs() < 1.6] = 0
    left = int((drawn != 0).sum())
    bitmask = storage_bytes([LayerCost("a", drawn.numel(), left, left, 1)], {"a": 100})["bitmask"]
    assert 0.7 * bitmask < compressed_bytes([drawn]) < 0.9 * bitmask


def test_peak_memory_is_in_bytes():
    """The process has used more memory than a tensor it just held, and less than a terabyte."""
    block = torch.ones(8 * 2**20)
    assert block.nbytes < peak_memory_bytes("cpu") < 2**40


def test_a_peak_can_be_forgotten():
    """What was used and given back before does not count: a process may carry out one run after another."""
    torch.ones(128 * 2**20).sum()
    before = peak_memory_bytes("cpu")
    reset_peak_memory(torch.device("cpu"))
    after = peak_memory_bytes("cpu")
    assert after < before - 2**28
    torch.ones(64 * 2**20).sum()
    assert peak_memory_bytes("cpu") > after + 2**27


@pytest.mark.slow
def test_a_started_process_has_a_peak_of_its_own():
    """Not that of the process that started it, which the system's `ru_maxrss` goes on from."""
    block = torch.ones(128 * 2**20)
    code = "from pruneboard.processes.memory import peak_memory_bytes; import torch; block = torch.ones(2**20)"
    code += "; print(peak_memory_bytes('cpu'), int(open('/proc/self/statm').read().split()[1]) * 4096)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, resident = map(int, done.stdout.split())
    assert peak < resident + block.nbytes / 2


@pytest.mark.gpu
def test_peak_memory_of_a_gpu():
    """On a GPU the peak is that of tensors, and measuring works where the network is."""
    model = timm.create_model("resnet20_cifar").cuda()
    assert sum(c.macs_dense for c in costs(model, 32)) == RESNET20_TOTAL
    assert peak_memory_bytes("cuda") >= sum(p.nbytes for p in model.parameters())


def test_the_definition_says_what_is_counted():
    """The sentence printed with every number fixes the unit and the scope."""
    assert "one multiply-add = 1 MAC" in MACS_DEFINITION
    assert "FLOPs = 2 x MACs" in MACS_DEFINITION


def test_layer_training_cost_adds_up():
    """A layer's training cost is three dense passes per image; over all layers they sum to the network's."""
    layers = [LayerCost("a", 10, 5, 5, 4), LayerCost("b", 6, 6, 6, 9)]
    assert layers[0].macs_train(7) == 3 * 40 * 7
    assert sum(layer.macs_train(7) for layer in layers) == train_macs(40 + 54, 7)
