"""Bytes and bits of pruned weights, against real arrays and exact counts."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model_cases import plan
from pruneboard.models import build_frozen, extras
from pruneboard.models.cost import LayerCost, compressed_bytes, storage, storage_bytes, supermask_bits


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_bytes_are_those_of_real_arrays(rows, columns, data):
    """Dense, bitmask and CSR bytes equal the sizes of real arrays of such a layer."""
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
    """Return the bytes of the three arrays of a CSR matrix."""
    return csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes


@pytest.mark.parametrize("columns", [2**31 - 1, 2**31])
def test_indices_are_as_wide_as_scipys(columns):
    """From 2^31 columns on, an index has 8 bytes."""
    matrix = scipy.sparse.coo_matrix(([1.0, 2.0], ([0, 1], [3, 5])), shape=(2, columns), dtype="float32").tocsr()
    assert storage_bytes([LayerCost("a", 2 * columns, 2, 2, 1)], {"a": 2})["csr"] == bytes_of(matrix)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(width=32, allow_nan=False)), min_size=1, max_size=40))
def test_the_compressed_stream_can_be_decoded(values):
    """The stream is plain deflate: one bit per position, then the four byte planes of the nonzero values."""
    weight = torch.tensor(values).reshape(1, -1)
    (stream,) = [storage._deflated(weight)]
    assert compressed_bytes([weight, weight]) == 2 * len(stream)
    found = zlib.decompress(stream, wbits=-15)
    bits = -(-len(values) // 8)
    kept = np.unpackbits(np.frombuffer(found[:bits], np.uint8), count=len(values)).astype(bool)
    restored = np.zeros(len(values), "<f4")
    restored[kept] = np.frombuffer(found[bits:], np.uint8).reshape(4, -1).T.copy().view("<f4").reshape(-1)
    assert np.array_equal(restored, weight.numpy()[0])


def test_compression_finds_the_entropy_of_weights():
    """Signed constants take little more than a bit each, and normal weights less than in the bitmask format."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(100, 1000, generator=generator)
    assert compressed_bytes([0.1 * drawn.sign()]) < 1.5 * drawn.numel() / 8 + 1000
    drawn[drawn.abs() < 1.6] = 0
    left = int((drawn != 0).sum())
    bitmask = storage_bytes([LayerCost("a", drawn.numel(), left, left, 1)], {"a": 100})["bitmask"]
    assert 0.7 * bitmask < compressed_bytes([drawn]) < 0.9 * bitmask


@settings(max_examples=50, deadline=None)
@given(layers=st.lists(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1))
def test_mask_bits_are_the_logarithm_of_the_number_of_masks(layers):
    """A layer needs ceil(log2 C(n, kept)) bits for its mask, and enough bits for a number from 0 to n for its count."""
    found = supermask_bits([LayerCost("fc", n, kept, kept, 1) for n, kept in layers], nn.Linear(1, 1, bias=False))
    exact = [math.comb(n, kept) for n, kept in layers]
    # The implementation uses lgamma: at a power of 2 or next to it, rounding may add or remove one bit.
    assert abs(found["mask"] - sum((choices - 1).bit_length() for choices in exact)) <= len(layers)
    assert found["counts"] == sum(math.ceil(math.log2(n + 1)) for n, _ in layers)
    assert found["total"] == sum(bits for part, bits in found.items() if part != "total")


@pytest.mark.parametrize(("name", "statistics"), [("test_resnet", True), ("test_vit", False)])
def test_supermask_bits_include_all_that_the_seed_does_not_determine(name, statistics):
    """Embeddings and tokens take 32 bits per number, and so do running means and variances; the seed takes 64."""
    model = build_frozen(plan(name), init="signed-constant", keep_ratio=0.5, seed=0)
    running = [b.numel() for module in model.modules() if isinstance(module, nn.BatchNorm2d) for b in module.buffers()]
    expected = sum(number for number in running if number > 1)  # without the counters of batches
    found = supermask_bits([LayerCost("fc", 10, 5, 5, 1)], model)
    assert found["statistics"] == 32 * expected
    assert bool(expected) == statistics
    assert (found["extras"], found["seed"]) == (32 * extras(model), 64)
    assert bool(found["extras"]) != statistics
