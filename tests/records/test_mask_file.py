"""Packed masks: round trips, equal files for equal masks, and safe reading of untrusted files."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pruneboard.records import mask_file
from pruneboard.records.mask_file import MaskError, PackedMask

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=9)
MASKS = st.lists(SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape)), min_size=1, max_size=4)
NAMES = ("conv1", "layer1.0.conv1", "Schicht 2.ü", "fc")


def packs(masks):
    """Return the masks, packed under different names."""
    return [mask_file.pack(name, mask) for name, mask in zip(NAMES, masks, strict=False)]


def sizes(masks):
    """Return the name and size of each mask, as a record lists them."""
    return [(mask.name, mask.n) for mask in masks]


def archive(compression=zipfile.ZIP_DEFLATED, **members):
    """Return a zip archive with the given members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in members.items():
            out.writestr(f"{name}.npy", data)
    return file.getvalue()


def member(array):
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def layers_member(layers):
    """Return the member that lists names and shapes."""
    return member(np.frombuffer(json.dumps(layers).encode(), np.uint8))


ONE = mask_file.pack("fc", np.array([[True, False, True], [False, False, True]]))
EXPECTED = [("fc", 6)]
GOOD = {"layers": layers_member([["fc", [2, 3]]]), "bits": member(np.frombuffer(ONE.bits, np.uint8))}


# Round trips


@settings(deadline=None, max_examples=40)
@given(MASKS)
def test_masks_are_read_back(masks):
    """Names, shapes, positions and counts are those that were written, for any shapes."""
    made = packs(masks)
    found = mask_file.loads(mask_file.dumps(made), sizes(made))
    assert found == made
    for mask, back in zip(masks, found, strict=True):
        assert np.array_equal(back.unpack(), mask)
        assert (back.n, back.kept) == (mask.size, int(mask.sum()))


@settings(deadline=None, max_examples=20)
@given(MASKS)
def test_numpy_reads_the_file_without_pickle(masks):
    """The layout in the docstring is complete: numpy alone reads two byte arrays and unpacks the masks."""
    with np.load(io.BytesIO(mask_file.dumps(packs(masks))), allow_pickle=False) as file:
        layers, bits = json.loads(file["layers"].tobytes()), file["bits"]
    for mask, (name, shape), expected in zip(masks, layers, NAMES, strict=False):
        n = math.prod(shape)
        assert name == expected
        assert np.array_equal(np.unpackbits(bits[: -(-n // 8)], count=n).reshape(shape), mask)
        bits = bits[-(-n // 8) :]
    assert not len(bits)


def test_the_memory_layout_of_a_mask_does_not_matter():
    """A channels-last mask is packed in row-major order like any other."""
    mask = np.random.default_rng(0).random((4, 3, 5, 5)) < 0.5
    channels_last = np.ascontiguousarray(mask.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert channels_last.strides != mask.strides
    assert mask_file.pack("conv", channels_last) == mask_file.pack("conv", mask)


def test_equal_masks_give_equal_files():
    """The file contains neither the time nor anything else but the masks."""
    assert mask_file.dumps([ONE]) == mask_file.dumps([mask_file.pack("fc", ONE.unpack())])
    with zipfile.ZipFile(io.BytesIO(mask_file.dumps([ONE]))) as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_sparse_masks_take_less_than_a_bit_per_weight():
    """With one kept position in a hundred, the file takes less than a quarter of the bits; a dense mask takes 4 KB."""
    mask = np.random.default_rng(0).random((512, 512, 3, 3)) < 0.01
    assert len(mask_file.dumps([mask_file.pack("conv", mask)])) < mask.size / 8 / 4
    assert len(mask_file.dumps([mask_file.pack("conv", np.ones_like(mask))])) < 4000


@pytest.mark.parametrize(
    "other",
    [
        PackedMask("fc2", ONE.shape, ONE.bits),
        PackedMask("fc", (3, 2), ONE.bits),
        PackedMask("fc", ONE.shape, bytes([ONE.bits[0] ^ 0x80])),
    ],
    ids=["name", "shape", "bit"],
)
def test_the_hash_is_over_names_shapes_and_bits(other):
    """A different name, shape or bit gives a different hash."""
    assert (
        mask_file.sha256([other]) != mask_file.sha256([ONE]) == mask_file.sha256([PackedMask("fc", (2, 3), ONE.bits)])
    )


# Untrusted files


def test_the_unchanged_parts_are_a_valid_file():
    """The file from which the invalid ones below are derived is valid."""
    assert mask_file.loads(archive(**GOOD), EXPECTED) == [ONE]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a mask.npz"),
        (b"PK\x05\x06" + bytes(18), "not a mask.npz"),
        (b"not a zip" * 100, "not a mask.npz"),
        (archive(layers=GOOD["layers"]), "not a mask.npz: KeyError"),
        (archive(**GOOD | {"bits": b"\x00"}), "not a mask.npz"),
        (archive(**GOOD | {"bits": member(np.zeros(2, np.uint8))}), "2 bytes of bits; these layers need 1"),
        (archive(**GOOD | {"bits": member(np.zeros(0, np.uint8))}), "0 bytes of bits; these layers need 1"),
        (archive(**GOOD | {"bits": member(np.zeros(1, np.float64))}), "bits is not an array of 8 bytes"),
        (archive(**GOOD | {"bits": pickle.dumps([1])}), "not a mask.npz"),
        (archive(**GOOD | {"bits": member(np.array([{}], dtype=object))}), "bits is not an array"),
        (archive(**GOOD | {"bits": member(np.array([0b10100101], np.uint8))}), "bits after the last position"),
        (archive(**GOOD | {"layers": layers_member([])}), "does not list 1 layers"),
        (archive(**GOOD | {"layers": layers_member({"fc": [2, 3]})}), "does not list 1 layers"),
        (archive(**GOOD | {"layers": layers_member([["fc"]])}), "not a mask.npz: ValueError"),
        (archive(**GOOD | {"layers": layers_member([7])}), "not a mask.npz: TypeError"),
        (archive(**GOOD | {"layers": layers_member([["other", [2, 3]]])}), "has layer 'other' in the place of 'fc'"),
        (archive(**GOOD | {"layers": layers_member([["fc", [2, 4]]])}), "has 6 weights, not the shape"),
        (archive(**GOOD | {"layers": layers_member([["fc", [-2, -3]]])}), "has 6 weights, not the shape"),
        (archive(**GOOD | {"layers": layers_member([["fc", [True, 6]]])}), "has 6 weights, not the shape"),
        (archive(**GOOD | {"layers": layers_member([["fc", [6] + [1] * 20]])}), "has 6 weights, not the shape"),
        (archive(**GOOD | {"layers": member(np.frombuffer(b"[" * 150, np.uint8))}), "not a mask.npz"),
        (archive(zipfile.ZIP_LZMA, **GOOD), "compressed by a method"),
        (archive(zipfile.ZIP_BZIP2, **GOOD), "compressed by a method"),
    ],
)
def test_an_invalid_file_is_an_error(data, reason):
    """Damaged, foreign, pickled and contradictory files are errors of one line."""
    with pytest.raises(MaskError, match=reason):
        mask_file.loads(data, EXPECTED)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_is_an_error_or_harmless(data):
    """After any cut and any changed bytes, the masks are equal or `loads` raises a MaskError."""
    content = bytearray(mask_file.dumps([ONE]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with contextlib.suppress(MaskError):
        assert mask_file.loads(bytes(content[:cut]), EXPECTED) == [ONE]


def refused_cheaply(data, expected=EXPECTED):
    """Return the message with which `loads` refuses data, using less than 2 MiB of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(MaskError) as caught:
            mask_file.loads(data, expected)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_a_zip_bomb_is_not_expanded():
    """64 MiB of zeros in 64 KB are refused by the declared size."""
    bomb = archive(**GOOD | {"bits": member(np.zeros(2**26, np.uint8))})
    assert len(bomb) < 2**17
    assert "unpacks to 67108992 bytes; at most 4097 are needed" in refused_cheaply(bomb)


def test_a_zip_bomb_with_a_false_size_is_not_expanded():
    """If the declared size is false, decompression stops at the needed size."""
    bomb = bytearray(archive(**GOOD | {"bits": member(np.zeros(2**26, np.uint8))}))
    real = (2**26 + 128).to_bytes(4, "little")
    assert bomb.count(real) == 2
    assert "not a mask.npz" in refused_cheaply(bytes(bomb).replace(real, (129).to_bytes(4, "little")))


def test_reading_and_counting_hold_the_bits_once():
    """A small file may unpack to the limit, so neither reading nor counting copies all bits."""
    size = 2**24
    small = archive(layers=layers_member([["fc", [8 * size]]]), bits=member(np.zeros(size, np.uint8)))
    tracemalloc.start()
    try:
        (mask,) = mask_file.loads(small, [("fc", 8 * size)])
        assert mask.kept == 0
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_a_header_that_declares_terabytes_allocates_nothing():
    """The size in an array's header is compared with the bytes that are there."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
    assert "bits is not an array" in refused_cheaply(archive(**GOOD | {"bits": file.getvalue()}))


def test_a_record_with_huge_layers_allocates_nothing():
    """Layers of 10^30 weights are refused before the file is read."""
    huge = [("fc", 10**30)]
    with pytest.raises(MaskError, match="at most 2147483648 are read"):
        mask_file.max_file_size(huge)
    assert "at most 2147483648 are read" in refused_cheaply(archive(**GOOD), huge)


@settings(deadline=None, max_examples=20)
@given(MASKS)
def test_every_valid_file_is_within_the_size_limit(masks):
    """`max_file_size` has room for any mask of these layers, however badly it compresses."""
    made = packs(masks)
    assert len(mask_file.dumps(made)) <= mask_file.max_file_size(sizes(made))


@pytest.mark.parametrize("header", [b"{'descr':'|u1','fortran_order':False,'shape':(1L,)}\n", b"'\\d'\n"])
def test_an_odd_header_is_an_error_without_a_warning(header, recwarn):
    """A header as Python 2 wrote it, or with an invalid escape, gives one error and no warning beside it."""
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(MaskError):
        mask_file.loads(archive(layers=data, bits=data), EXPECTED)
    assert not recwarn.list
