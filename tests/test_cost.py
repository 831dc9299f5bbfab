"""Multiply-adds, bytes and memory, against counts made by hand and by PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pruneboard import models  # noqa: F401 - registers the names
from pruneboard.cost import (
    MACS_DEFINITION,
    LayerCost,
    forget_peak_memory,
    peak_memory_bytes,
    positions,
    storage_bytes,
    train_macs,
)
from pruneboard.models import prunable_layers

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


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet20_cifar", 32),
        ("vgg19_cifar", 32),
        ("resnet18", 64),
        ("resnet18_small_stem", 32),
        ("mobilenetv3_small_050", 64),
        ("test_convnext", 64),
    ],
)
def test_totals_agree_with_pytorch(name, size):
    """PyTorch's own counter finds twice as many operations as we find multiply-adds, also with depthwise layers."""
    model = timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    assert counter.get_total_flops() == 2 * macs(model, size)


def test_transformer_agrees_with_pytorch_without_attention_products():
    """Of a vision transformer exactly the two products inside attention are left out."""
    model = timm.create_model("test_vit").eval()
    size = model.patch_embed.img_size[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    by_operation = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops for op, flops in by_operation.items() if "attention" in op or "bmm" in op)
    assert attention > 0
    assert counter.get_total_flops() - attention == 2 * macs(model, size)


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


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_bytes_are_those_of_real_arrays(rows, columns, data):
    """Dense, bitmask and CSR bytes equal the sizes of the arrays that hold such a layer."""
    keep = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    weight = torch.tensor(keep, dtype=torch.float32).reshape(rows, columns)
    csr = weight.to_sparse_csr()
    arrays = (csr.values(), csr.col_indices().int(), csr.crow_indices().int())
    bits = sum(keep)
    layers = [LayerCost(name, weight.numel(), bits, bits, 1) for name in ("a", "b")]
    assert storage_bytes(layers, {"a": rows, "b": rows}) == {
        "dense": 2 * weight.nbytes,
        "bitmask": 2 * (len(bytes((rows * columns + 7) // 8)) + 4 * bits),
        "csr": 2 * sum(array.nbytes for array in arrays),
    }


def test_peak_memory_is_in_bytes():
    """The process has used more memory than a tensor it just held, and less than a terabyte."""
    block = torch.ones(8 * 2**20)
    assert block.nbytes < peak_memory_bytes("cpu") < 2**40


def test_a_peak_can_be_forgotten():
    """What was used and given back before does not count: a process may carry out one run after another."""
    torch.ones(128 * 2**20).sum()
    before = peak_memory_bytes("cpu")
    forget_peak_memory(torch.device("cpu"))
    after = peak_memory_bytes("cpu")
    assert after < before - 2**28
    torch.ones(64 * 2**20).sum()
    assert peak_memory_bytes("cpu") > after + 2**27


@pytest.mark.slow
def test_a_started_process_has_a_peak_of_its_own():
    """Not that of the process that started it, which the system's `ru_maxrss` goes on from."""
    block = torch.ones(128 * 2**20)
    code = "from pruneboard.cost import peak_memory_bytes; import torch; block = torch.ones(2**20)"
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
