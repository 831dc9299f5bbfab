"""Edit runs as a careful cheat would, leaving no sum that contradicts another, and collect what verification finds."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fake_records import change
from pruneboard import models
from pruneboard.artifacts.verification import consistency
from pruneboard.artifacts.verification.verify import verify
from pruneboard.records import mask_file, store
from pruneboard.records.schema import Record, content_hash, fingerprint, lookup
from pruneboard.records.verdicts import RunCheck, RunVerification

RESULTS = Path(__file__).parents[2] / "results"
NEWER = ("sparsity.layers", "sparsity.alive", "sparsity.effective")
"""Paths that `one_with` completes, because the oldest published records lack some of their values."""

PAID = ("cost.validations",)
"""Paths that records have from rules 2 on; `one_with` adds them to earlier ones."""

PARTS = {"dense": "n", "remaining": "nonzero"}

DAMAGES = [b"", b"\x00" * 100, b"PK\x03\x04", b"\xff" * 5000, "half", "folder", "pipe", "link"]
"""Ways to damage a file: other bytes, its first half, or something that is not a regular file."""


def copied(run: Path, to: Path, *without: str) -> Path:
    """Copy a run's folder, without some of its files."""
    return Path(shutil.copytree(run, to, ignore=shutil.ignore_patterns(*without)))


def record_of(folder: Path) -> Record:
    """The record of a run, not validated."""
    return json.loads((folder / store.RUN).read_text())


def edit(folder: Path, **values: Any) -> Record:
    """Set values of the record by path, with `__` for the dot, and return it; nothing else is adjusted."""
    record = record_of(folder)
    for path, value in values.items():
        change(record, path.replace("__", "."), value)
    (folder / store.RUN).write_text(json.dumps(record))
    return record


def rehash(folder: Path) -> None:
    """Recompute hash and fingerprint after an edit."""
    record = record_of(folder)
    record["hash"] = content_hash(consistency.hashed_fields(record))
    record["board"]["fingerprint"] = fingerprint(record["board"])
    (folder / store.RUN).write_text(json.dumps(record))


def set_correct(folder: Path, split: str, correct: int) -> None:
    """Claim another number of correct images, with a matching top-1."""
    count = record_of(folder)["metrics"][split]["count"]
    edit(folder, **{f"metrics__{split}__correct": correct, f"metrics__{split}__top1": correct / count})


def set_counts(folder: Path, counts: Mapping[int, Mapping[str, int]]) -> None:
    """Add to counts of layers (index -> name of the count -> difference), and recompute every sum and cost."""
    record = record_of(folder)
    sparsity, cost = record["sparsity"], record["cost"]
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
    sparsity["whole_model"] = (sparsity["prunable"] - left) / record["model"]["parameters"]
    cost["macs_remaining"] = sum(layer["nonzero"] * layer["positions"] for layer in layers)
    cost["bytes"]["bitmask"] = sum(-(-layer["n"] // 8) + 4 * layer["nonzero"] for layer in layers)
    (folder / store.RUN).write_text(json.dumps(record))


def set_masks(folder: Path, change_first: Callable[[Any], None]) -> None:
    """Change the mask of the first layer in the file, but not the record's hash of the masks."""
    layers = [(layer["name"], layer["n"]) for layer in record_of(folder)["sparsity"]["layers"]]
    first, *others = mask_file.loads((folder / store.MASK).read_bytes(), layers)
    mask = first.unpack()
    change_first(mask.reshape(-1))
    (folder / store.MASK).write_bytes(mask_file.dumps([mask_file.pack(first.name, mask), *others]))


def hash_masks(folder: Path) -> None:
    """Set the record's hash of the masks to that of the file."""
    layers = [(layer["name"], layer["n"]) for layer in record_of(folder)["sparsity"]["layers"]]
    edit(folder, mask_sha256=mask_file.sha256(mask_file.loads((folder / store.MASK).read_bytes(), layers)))


def set_weights(folder: Path, change_state: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors in the file, but not the record's hash of them."""
    state = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(folder / store.WEIGHTS).items()}
    change_state(state)
    (folder / store.WEIGHTS).write_bytes(safetensors.torch.save(state))


def hash_weights(folder: Path) -> None:
    """Set the record's hash of the weights to that of the file."""
    edit(folder, weights_sha256=models.state_sha256(safetensors.torch.load_file(folder / store.WEIGHTS)))


def swap(bits: Any) -> None:
    """Move the first kept position of a mask to the first dropped one."""
    on, off = bits.argmax(), bits.argmin()
    bits[on], bits[off] = False, True


def double(state: dict[str, Tensor]) -> None:
    """Double the weights of a layer, which changes no zero."""
    state["fc.weight"] *= 2


def flip(state: dict[str, Tensor]) -> None:
    """Change the sign of one weight."""
    flat = state["fc.weight"].view(-1)
    flat[flat.nonzero()[0]] *= -1


def move(state: dict[str, Tensor]) -> None:
    """Set one weight to 0, and one zero to 1."""
    flat = state["layer3.0.conv2.weight"].view(-1)
    on, off = flat.nonzero()[0], (flat == 0).nonzero()[0]
    flat[off], flat[on] = 1.0, 0.0


def found(folder: Path, **how: Any) -> RunVerification:
    """The result of verifying one run."""
    (finding,) = verify([folder], **how)
    return finding


def failed(folder: Path, **how: Any) -> set[str]:
    """The names of the failed checks; each has a note, and the verdict is `disputed` if there are any."""
    finding = found(folder, **how)
    assert (finding.verdict == "disputed") == bool(finding.of("failed"))
    assert all(check.note for check in finding.of("failed"))
    return {check.name for check in finding.of("failed")}


def note(finding: RunVerification, name: str) -> str:
    """The note of one check."""
    (check,) = (check for check in finding.checks if check.name == name)
    assert isinstance(check, RunCheck)
    return check.note


def damage(path: Path, how: bytes | str) -> None:
    """Replace a file in one of the ways of `DAMAGES`."""
    content = path.read_bytes()
    path.unlink()
    if isinstance(how, bytes) or how == "half":
        path.write_bytes(how if isinstance(how, bytes) else content[: len(content) // 2])
    else:
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere")}[how]()


@cache
def published() -> list[tuple[Path, Record]]:
    """The records in this repository, with the paths of their files."""
    return store.scan([RESULTS]).records


def problems(record: Record) -> dict[str, str]:
    """The notes of the failed checks, by name."""
    return {check.name: check.note for check in consistency.check_record(record) if check.status == "failed"}


def one_with(path: str) -> Record:
    """A copy of a published record that has a value at a path, as a run of today would write it."""
    record = copy.deepcopy(
        next(record for _, record in published() if path in (*NEWER, *PAID) or lookup(record, path) is not None)
    )
    record["cost"].setdefault("validations", 0)
    record["method"]["traits"].setdefault("max_validations", 16)
    if path in NEWER:
        sparsity = record["sparsity"]
        for layer in sparsity["layers"]:
            spent = {f"macs_{name}": layer[part] * layer["positions"] for name, part in PARTS.items()}
            layer |= {"alive": layer["nonzero"], **spent}
        sparsity |= {"alive": sparsity["nonzero"], "effective": sparsity["measured"]}
    return record
