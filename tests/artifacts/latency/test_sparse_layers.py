"""Sparse layers compute what torch's dense layers compute."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import networks  # noqa: F401 - registers tiny networks
from pruneboard.artifacts.latency import sparse_layers
from pruneboard.models import prunable_layers


def zeroed(network, share=0.7):
    """Set a share of each prunable weight to zero, and return the network in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in prunable_layers(network):
        layer.weight.data[torch.rand(layer.weight.shape, generator=generator) < share] = 0
    return network.eval()


def assert_close(ours, theirs):
    """Assert that two tensors are equal up to rounding."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("valid")),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    bias=st.booleans(),
)
def test_a_sparse_convolution_equals_torchs(kernel, stride, padding, dilation, groups, batch, bias):
    """For any kernel, stride, padding, dilation and groups, CSR times windows equals torch's convolution."""
    layer = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias)
    layer = zeroed(nn.Sequential(layer))[0]
    x = torch.randn(batch, 4, 9, 8)
    with torch.inference_mode():
        assert_close(sparse_layers.torch_csr(layer)(x), layer(x))


@pytest.mark.parametrize("convert", [sparse_layers.torch_csr, sparse_layers.scipy_csr])
@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (2, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sparse_linear_layer_equals_torchs(convert, shape, bias):
    """For one vector, several vectors and tokens, both sparse forms give the output of torch's linear layer."""
    layer = zeroed(nn.Sequential(nn.Linear(6, 10, bias=bias)))[0]
    x = torch.randn(shape)
    with torch.inference_mode():
        assert_close(convert(layer)(x), layer(x))


def test_the_matrix_of_a_grouped_weight_is_block_diagonal():
    """The CSR matrix of a grouped weight is block-diagonal, and stores one value for each non-zero weight."""
    weight = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 4.0], [5.0, 0.0]])
    csr = sparse_layers.csr_matrix(weight.view(4, 2, 1, 1), groups=2)
    assert csr.values().tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(csr.to_dense(), torch.block_diag(weight[:2], weight[2:]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 2, padding="same"),
        timm.layers.StdConv2d(3, 4, 3),
        timm.layers.Conv2dSame(3, 4, 3, stride=2),
    ],
    ids=["reflected", "uneven", "standardized", "same"],
)
def test_special_layers_stay_dense(layer):
    """Layers with unusual padding, and classes with their own `forward`, have no sparse form."""
    assert sparse_layers.torch_csr(layer) is None
    assert sparse_layers.scipy_csr(layer) is None


def test_symmetric_same_padding_is_sparse():
    """A convolution of odd kernel size with padding `same` is computed sparsely."""
    layer = zeroed(nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1))))[0]
    x = torch.randn(2, 3, 7, 9)
    with torch.inference_mode():
        assert_close(sparse_layers.torch_csr(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("name", "unused"),
    [("test_convnext", set()), ("tiny_mixer", set()), ("tiny_tied", set()), ("tiny_beit", {"attn.qkv"})],
)
def test_networks_compute_the_same_with_sparse_layers(name, unused):
    """Depthwise, token-mixing and tied layers agree; a layer whose weight is read without a call is not counted."""
    network = zeroed(timm.create_model(name, num_classes=7))
    images = torch.randn(2, 3, 32, 32)
    sparse, forwards = sparse_layers.with_sparse_layers(network, sparse_layers.torch_csr)
    with torch.inference_mode():
        assert_close(sparse(images), network(images))
    assert {".".join(f.name.split(".")[-2:]) for f in forwards if not f.used} == unused
    assert all("forward" not in vars(layer) for layer in network.modules())


def test_two_of_four_is_recognized():
    """The pattern is at most two non-zeros in each group of four columns of a matrix; other shapes do not have it."""
    assert sparse_layers.is_two_of_four(torch.tensor([[1.0, 0, 0, 2, 0, 0, 0, 3]]))
    assert not sparse_layers.is_two_of_four(torch.tensor([[0.0, 0, 1, 2, 3, 0, 0, 0, 1, 1, 1, 0]]))
    assert not sparse_layers.is_two_of_four(torch.zeros(4, 6))
    assert not sparse_layers.is_two_of_four(torch.zeros(4, 4, 1, 1))
