"""Packed masks: what goes in comes out, equal masks are equal files, and no file of a stranger's does harm."""

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
    """Some masks, packed under names of their own."""
    return [mask_file.pack(name, mask) for name, mask in zip(NAMES, masks, strict=False)]


def sizes(masks):
    """What a record says of them."""
    return [(mask.name, mask.n) for mask in masks]


def archive(compression=zipfile.ZIP_DEFLATED, **members):
    """A zip of members as given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in members.items():
            out.writestr(f"{name}.npy", data)
    return file.getvalue()


def member(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def layers_member(layers):
    """The member that lists names and shapes."""
    return member(np.frombuffer(json.dumps(layers).encode(), np.uint8))


ONE = mask_file.pack("fc", np.array([[True, False, True], [False, False, True]]))
EXPECTED = [("fc", 6)]
GOOD = {"layers": layers_member([["fc", [2, 3]]]), "bits": member(np.frombuffer(ONE.bits, np.uint8))}


# What goes in comes out


@settings(deadline=None, max_examples=40)
@given(MASKS)
def test_masks_come_back(masks):
    """Names, shapes, positions and counts survive the file, whatever the shapes."""
    made = packs(masks)
    found = mask_file.loads(mask_file.dumps(made), sizes(made))
    assert found == made
    for mask, back in zip(masks, found, strict=True):
        assert np.array_equal(back.unpack(), mask)
        assert (back.n, back.kept) == (mask.size, int(mask.sum()))


@settings(deadline=None, max_examples=20)
@given(MASKS)
def test_numpy_reads_the_file_without_pickle(masks):
    """The layout of the docstring is all that it takes: two arrays of bytes, and `numpy.unpackbits`."""
    with np.load(io.BytesIO(mask_file.dumps(packs(masks))), allow_pickle=False) as file:
        layers, bits = json.loads(file["layers"].tobytes()), file["bits"]
    for mask, (name, shape), expected in zip(masks, layers, NAMES, strict=False):
        n = math.prod(shape)
        assert name == expected
        assert np.array_equal(np.unpackbits(bits[: -(-n // 8)], count=n).reshape(shape), mask)
        bits = bits[-(-n // 8) :]
    assert not len(bits)


def test_order_is_that_of_the_tensor_and_not_of_memory():
    """A mask that lies in memory channels last is packed row by row all the same."""
    mask = np.random.default_rng(0).random((4, 3, 5, 5)) < 0.5
    channels_last = np.ascontiguousarray(mask.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert channels_last.strides != mask.strides
    assert mask_file.pack("conv", channels_last) == mask_file.pack("conv", mask)


def test_equal_masks_are_equal_files():
    """No time and nothing else but the masks is in the file."""
    assert mask_file.dumps([ONE]) == mask_file.dumps([mask_file.pack("fc", ONE.unpack())])
    with zipfile.ZipFile(io.BytesIO(mask_file.dumps([ONE]))) as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_sparse_masks_take_less_than_a_bit_a_weight():
    """At one kept position in a hundred the file is a fifth of the bits, at full density next to nothing."""
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
    """One that differs is another hash."""
    assert (
        mask_file.sha256([other]) != mask_file.sha256([ONE]) == mask_file.sha256([PackedMask("fc", (2, 3), ONE.bits)])
    )


# What strangers write


def test_the_parts_below_make_a_good_file():
    """So that every refusal below is for the reason given there."""
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
def test_what_is_no_mask_is_refused(data, reason):
    """Damaged, foreign, pickled or contradicting files end in one line."""
    with pytest.raises(MaskError, match=reason):
        mask_file.loads(data, EXPECTED)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_damage_is_more_than_an_error(data):
    """Any cut and any changed byte leaves the same masks or a `MaskError`."""
    content = bytearray(mask_file.dumps([ONE]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with contextlib.suppress(MaskError):
        assert mask_file.loads(bytes(content[:cut]), EXPECTED) == [ONE]


def refused_cheaply(data, expected=EXPECTED):
    """The reason for which `loads` refuses; it takes next to no memory for it."""
    tracemalloc.start()
    try:
        with pytest.raises(MaskError) as caught:
            mask_file.loads(data, expected)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_a_bomb_is_not_expanded():
    """64 MiB of zeros in 64 KB are refused by the size that the file declares."""
    bomb = archive(**GOOD | {"bits": member(np.zeros(2**26, np.uint8))})
    assert len(bomb) < 2**17
    assert "unpacks to 67108992 bytes; at most 4097 are needed" in refused_cheaply(bomb)


def test_a_bomb_that_lies_about_its_size_is_not_expanded():
    """Where the declared size is a lie, decompression stops at what is needed."""
    bomb = bytearray(archive(**GOOD | {"bits": member(np.zeros(2**26, np.uint8))}))
    real = (2**26 + 128).to_bytes(4, "little")
    assert bomb.count(real) == 2
    assert "not a mask.npz" in refused_cheaply(bytes(bomb).replace(real, (129).to_bytes(4, "little")))


def test_a_header_that_declares_terabytes_allocates_nothing():
    """What an array's own header says is believed only where the bytes are there."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
    assert "bits is not an array" in refused_cheaply(archive(**GOOD | {"bits": file.getvalue()}))


def test_a_record_cannot_ask_for_more_than_memory():
    """Layers of 10^30 weights are refused before the file is looked at."""
    huge = [("fc", 10**30)]
    with pytest.raises(MaskError, match="at most 2147483648 are read"):
        mask_file.max_file_size(huge)
    assert "at most 2147483648 are read" in refused_cheaply(archive(**GOOD), huge)


@settings(deadline=None, max_examples=20)
@given(MASKS)
def test_no_honest_file_is_larger_than_what_is_read(masks):
    """`largest_file` has room for any mask of these layers, however badly it compresses."""
    made = packs(masks)
    assert len(mask_file.dumps(made)) <= mask_file.max_file_size(sizes(made))
