"""Decoding, resizing, channel statistics and content hashes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from data_cases import SMALL, damage, error_line, open_tree
from pruneboard import data
from pruneboard.data.images import UPRIGHT, channel_statistics, check_header, decode, fingerprint, image_side, resize
from pruneboard.errors import DataError


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_corrupt_image_in_memory_is_named(small, part, content):
    """Empty files, files of another type and truncated images are all found when they are decoded."""
    file = small / part / "dog" / "01.png"
    file.write_bytes(file.read_bytes()[:200] if content == "truncated" else content)
    text = error_line(lambda: open_tree(small))
    assert text.startswith(f"cannot decode {file}: ")
    assert text.endswith("; replace or delete it")


def test_more_than_8_bits_per_channel_are_refused(small):
    """PIL would silently turn a 16-bit gray image white."""
    file = small / "train" / "dog" / "01.png"
    Image.fromarray(np.full((SMALL, SMALL), 40000, dtype=np.uint16)).save(file)
    assert f"cannot decode {file}: it has mode I;16" in error_line(lambda: open_tree(small))


def test_a_corrupt_first_image_is_named(large):
    """Reading the side of a file that is not an image gives the same one-line error."""
    file = large / "train" / "cat" / "00.png"
    file.write_bytes(b"no image")
    assert error_line(lambda: data.first_image_side(str(large))) == (
        f"cannot decode {file}: it is not an image; replace or delete it"
    )
    assert "it is not an image" in error_line(lambda: open_tree(large))


def saved(path, side=70, **options):
    """Write a random image in the format of the path's ending, and return the path."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def error_of(function, file):
    """Return the message of the `DataError` that a call raises, or an empty string."""
    try:
        function(file)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "ppm", "tif"])
def test_a_truncated_file_is_found_by_its_header_and_its_end(tmp_path, suffix):
    """`check_header` refuses a file that is cut anywhere with the error of `decode`, and accepts what that accepts."""
    file = saved(tmp_path / f"a.{suffix}")
    check_header(file)
    content = file.read_bytes()
    for length in (0, 1, 30, len(content) // 2, len(content) - 500, len(content) - 20, len(content) - 1):
        file.write_bytes(content[:length])
        if length > len(content) - 30 and not error_of(decode, file):
            assert not error_of(check_header, file)
        else:
            assert error_of(check_header, file) == error_of(decode, file) != ""


def test_a_file_with_bytes_after_its_end_is_accepted(tmp_path):
    """Cameras append data to images, which decoders ignore."""
    for suffix in ("jpg", "png", "webp"):
        file = saved(tmp_path / f"a.{suffix}")
        file.write_bytes(file.read_bytes() + b"appended")
        check_header(file)


def test_a_complete_file_is_not_decoded(tmp_path):
    """Damage in the middle of a file with an intact header and end is found by decoding only."""
    for suffix in ("png", "webp"):
        file = saved(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        damage(file)
        check_header(file)
    assert "cannot decode" in error_line(lambda: decode(tmp_path / "a.png"))


def test_the_side_of_an_image_is_its_longer_one(tmp_path):
    """Width and height are read from the header."""
    for width, height in ((30, 10), (10, 30)):
        Image.new("RGB", (width, height)).save(tmp_path / "image.png")
        assert image_side(tmp_path / "image.png") == 30


@settings(max_examples=20, deadline=None)
@given(side=st.integers(1, 20), size=st.integers(1, 20), level=st.integers(0, 255))
def test_resizing_keeps_constant_images_and_treats_images_alone(side, size, level):
    """A constant image stays constant, and each image of a stack is resized as it would be alone."""
    stack = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stack[1] = level
    resized = resize(stack, size)
    assert (resized.shape, resized.dtype) == ((3, 3, size, size), torch.uint8)
    assert (resized[1] == level).all()
    assert torch.equal(resized, torch.cat([resize(image[None], size) for image in stack]))
    assert resize(stack, side) is stack


def test_a_constant_channel_has_a_deviation_of_1():
    """A constant channel would otherwise be divided by zero."""
    gray = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    assert channel_statistics(gray) == ((0.2,) * 3, (1.0,) * 3)


FEW = settings(max_examples=30, deadline=None)


@FEW
@given(parts=st.lists(st.text(max_size=3), max_size=4), other=st.lists(st.text(max_size=3), max_size=4))
def test_hashes_are_equal_only_for_equal_lists(parts, other):
    """Two lists of strings have the same hash only if they are equal; boundaries between strings count."""
    assert (fingerprint(*parts) == fingerprint(*other)) == (parts == other)


def oriented(path, orientation, size=(30, 20)):
    """Save a random image with an EXIF orientation in the format of the path's ending, and return the path."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_orientation_says(tmp_path, suffix, orientation):
    """Decoded pixels equal those of PIL's `exif_transpose`, in every format."""
    file = oriented(tmp_path / f"a.{suffix}", orientation)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.asarray(decode(file)), expected)
    assert (expected.shape[0] > expected.shape[1]) is (orientation > 4)
    if suffix != "tif":  # PIL itself turns these when it decodes them
        assert check_header(file) == orientation


def test_an_orientation_behind_the_pixels_of_a_png_is_found(tmp_path):
    """The chunk may follow the pixels; the header check finds it too."""
    early = oriented(tmp_path / "a.png", 6)
    content = early.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    late = tmp_path / "b.png"
    late.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert check_header(late) == 6
    assert np.array_equal(np.asarray(decode(late)), np.asarray(decode(early)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00broken", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"])
def test_a_malformed_exif_block_changes_nothing(tmp_path, exif):
    """Such an image is decoded as it is stored."""
    plain, malformed = saved(tmp_path / "a.jpg"), saved(tmp_path / "b.jpg", exif=exif)
    assert check_header(malformed) == UPRIGHT
    assert np.array_equal(np.asarray(decode(malformed)), np.asarray(decode(plain)))
