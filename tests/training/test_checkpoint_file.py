"""The file format of checkpoints: what is read is what was written, or the file is refused."""

from __future__ import annotations

import json

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from pruneboard.training import checkpoint_file
from pruneboard.training.checkpoint_file import HEADER_SHA256, METADATA_KEY, DamagedError

TENSORS = {
    "network/a": torch.arange(6.0).reshape(2, 3),
    "network/b": torch.tensor(7),
    "masks/0": torch.tensor([1, 0, 1], dtype=torch.uint8),
    "network/empty": torch.zeros(0),
    "optimizer/half": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint with tensors of several types."""
    path = tmp_path / "step-000000001.safetensors"
    checkpoint_file.write(path, {"state": {"step": 1}}, TENSORS)
    return path


def refusal(path) -> str:
    """Return the message that refuses a file, which is one line."""
    with pytest.raises(DamagedError) as caught:
        checkpoint_file.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read_as_it_was_written(saved):
    """Header, names, types, shapes and values come back, and any safetensors reader can read the file."""
    header, tensors = checkpoint_file.read(saved)
    assert header["state"] == {"step": 1}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    assert load_file(saved).keys() == {*TENSORS, HEADER_SHA256}


def test_no_flipped_bit_goes_unnoticed(saved):
    """Whichever bit of the file is flipped, in its length, header, padding, tensors or checksums, it is refused."""
    content = bytearray(saved.read_bytes())
    for place in range(8 * len(content)):
        content[place // 8] ^= 1 << place % 8
        saved.write_bytes(content)
        refusal(saved)
        content[place // 8] ^= 1 << place % 8
    saved.write_bytes(content)
    checkpoint_file.read(saved)


@pytest.mark.parametrize("damage", ["cut", "zeroed", "removed", "repeated"])
def test_no_damaged_range_goes_unnoticed(saved, damage):
    """A file that is cut, or in which 16 bytes are zero, missing or there twice, is refused, wherever that is."""
    content = saved.read_bytes()
    for start in range(0, len(content), 16):
        before, block, after = content[:start], content[start : start + 16], content[start + 16 :]
        changed = {"cut": b"", "zeroed": bytes(len(block)) + after, "removed": after, "repeated": block + block + after}
        if before + changed[damage] != content:
            saved.write_bytes(before + changed[damage])
            refusal(saved)


def test_the_damaged_tensor_is_named(saved):
    """A flipped bit of a weight gives the name of its tensor."""
    content = bytearray(saved.read_bytes())
    content[content.index(torch.arange(6.0).numpy().tobytes()) + 9] ^= 4
    saved.write_bytes(content)
    assert refusal(saved) == "the checksum of tensor network/a is wrong"


def rewrite(path, change) -> None:
    """Write a checkpoint again with another header text, and with its own `header_sha256` made to agree."""
    with safetensors.safe_open(path, "pt") as file:
        text = change(file.metadata()[METADATA_KEY])
    tensors = load_file(path)
    tensors.pop(HEADER_SHA256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file.json, "dumps", lambda value: text)
        checkpoint_file.write(path, {}, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "its entry 'pruneboard' is missing or is not JSON"),
        (lambda text: "[" * 100_000, "its entry 'pruneboard' is missing or is not JSON"),
        (lambda text: "[]", "its format must be 2; found None"),
        (lambda text: text.replace('"schema": 2', '"schema": 1'), "its format must be 2; found 1"),
        (lambda text: json.dumps({"schema": 2}), "its header has no checksums (`sha256`)"),
        (lambda text: json.dumps({"schema": 2, "sha256": {}}), "the checksum of tensor "),
    ],
)
def test_a_header_without_a_key_is_refused(saved, change, message):
    """A header that is not JSON, has another format or lacks checksums is refused, though its own checksum agrees."""
    rewrite(saved, change)
    assert refusal(saved).startswith(message)


def test_other_files_are_refused(tmp_path):
    """A file without our entry, an empty one, a missing one and a folder are refused in one line each."""
    path = tmp_path / "other.safetensors"
    assert refusal(path).startswith("No such file or directory")
    assert refusal(tmp_path) == "it is not a regular file"
    path.write_bytes(b"")
    refusal(path)
    save_file(TENSORS, path)
    assert refusal(path) == "its entry 'pruneboard' is missing or is not JSON"
