"""Honest runs to tamper with, and the tools to do it as a careful cheat would: leaving no sum that contradicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fake_records import change
from pruneboard import models
from pruneboard.artifacts.verification import consistency, walk
from pruneboard.records import mask_file, store
from pruneboard.records.schema import Record, content_hash, fingerprint
from pruneboard.records.verdicts import RunCheck, RunVerification


def copied(run: Path, to: Path, *without: str) -> Path:
    """A copy of a run's folder, without some of its files."""
    return Path(shutil.copytree(run, to, ignore=shutil.ignore_patterns(*without)))


def record_of(folder: Path) -> Record:
    """The record, unchecked."""
    return json.loads((folder / store.RUN).read_text())


def edit(folder: Path, **values: Any) -> Record:
    """Set values of the record by path, with `__` for the dot, and return it; nothing else follows."""
    made = record_of(folder)
    for path, value in values.items():
        change(made, path.replace("__", "."), value)
    (folder / store.RUN).write_text(json.dumps(made))
    return made


def rehash(folder: Path) -> None:
    """Let hash and fingerprint follow an edit."""
    made = record_of(folder)
    made["hash"] = content_hash(consistency.identity(made))
    made["board"]["fingerprint"] = fingerprint(made["board"])
    (folder / store.RUN).write_text(json.dumps(made))


def set_correct(folder: Path, split: str, correct: int) -> None:
    """Claim another number of correct images, top-1 included."""
    count = record_of(folder)["metrics"][split]["count"]
    edit(folder, **{f"metrics__{split}__correct": correct, f"metrics__{split}__top1": correct / count})


def set_counts(folder: Path, counts: Mapping[int, Mapping[str, int]]) -> None:
    """Add to counts of layers (index -> what -> how many), and let every sum and cost follow."""
    made = record_of(folder)
    sparsity, cost = made["sparsity"], made["cost"]
    for index, changes in counts.items():
        for what, number in changes.items():
            sparsity["layers"][index][what] += number
    layers = sparsity["layers"]
    for layer in layers:
        layer["macs_remaining"] = layer["nonzero"] * layer["positions"]
        layer["alive"] = min(layer["alive"], layer["nonzero"])
    sparsity["alive"] = sum(layer["alive"] for layer in layers)
    sparsity["effective"] = (sparsity["prunable"] - sparsity["alive"]) / sparsity["prunable"]
    sparsity["kept"], left = (sum(layer[what] for layer in layers) for what in ("kept", "nonzero"))
    sparsity["nonzero"], sparsity["kept_zero"] = left, sparsity["kept"] - left
    sparsity["measured"] = 1 - left / sparsity["prunable"]
    sparsity["whole_model"] = (sparsity["prunable"] - left) / made["model"]["parameters"]
    cost["macs_remaining"] = sum(layer["nonzero"] * layer["positions"] for layer in layers)
    cost["bytes"]["bitmask"] = sum(-(-layer["n"] // 8) + 4 * layer["nonzero"] for layer in layers)
    (folder / store.RUN).write_text(json.dumps(made))


def set_masks(folder: Path, change_first: Callable[[Any], None]) -> None:
    """Change the mask of the first layer, and let the file follow, but not the record's hash of it."""
    layers = [(layer["name"], layer["n"]) for layer in record_of(folder)["sparsity"]["layers"]]
    first, *others = mask_file.loads((folder / store.MASK).read_bytes(), layers)
    mask = first.unpack()
    change_first(mask.reshape(-1))
    (folder / store.MASK).write_bytes(mask_file.dumps([mask_file.pack(first.name, mask), *others]))


def hash_masks(folder: Path) -> None:
    """Let the record's hash of the masks follow the file."""
    layers = [(layer["name"], layer["n"]) for layer in record_of(folder)["sparsity"]["layers"]]
    edit(folder, mask_sha256=mask_file.sha256(mask_file.loads((folder / store.MASK).read_bytes(), layers)))


def set_weights(folder: Path, change_state: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of the file, but not the record's hash of them."""
    state = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(folder / store.WEIGHTS).items()}
    change_state(state)
    (folder / store.WEIGHTS).write_bytes(safetensors.torch.save(state))


def hash_weights(folder: Path) -> None:
    """Let the record's hash of the weights follow the file."""
    edit(folder, weights_sha256=models.state_sha256(safetensors.torch.load_file(folder / store.WEIGHTS)))


def swap(bits: Any) -> None:
    """Move the first kept position of a mask to the first that is not."""
    on, off = bits.argmax(), bits.argmin()
    bits[on], bits[off] = False, True


def double(state: dict[str, Tensor]) -> None:
    """Change weights and no zero."""
    state["fc.weight"] *= 2


def flip(state: dict[str, Tensor]) -> None:
    """Change the sign of one weight."""
    flat = state["fc.weight"].view(-1)
    flat[flat.nonzero()[0]] *= -1


def move(state: dict[str, Tensor]) -> None:
    """Set one weight to 0 and another zero to 1."""
    flat = state["layer3.0.conv2.weight"].view(-1)
    on, off = flat.nonzero()[0], (flat == 0).nonzero()[0]
    flat[off], flat[on] = 1.0, 0.0


def found(folder: Path, **how: Any) -> RunVerification:
    """What verification finds of one run."""
    (finding,) = walk.verify([folder], **how)
    return finding


def failed(folder: Path, **how: Any) -> set[str]:
    """The names of the checks that fail; the verdict is the one that this makes."""
    finding = found(folder, **how)
    assert (finding.verdict == "disputed") == bool(finding.of("failed"))
    assert all(check.note for check in finding.of("failed"))
    return {check.name for check in finding.of("failed")}


def note(finding: RunVerification, name: str) -> str:
    """The note of one check."""
    (check,) = (check for check in finding.checks if check.name == name)
    assert isinstance(check, RunCheck)
    return check.note
