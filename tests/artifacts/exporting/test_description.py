"""Every format has the same description, which states the record's values."""

from __future__ import annotations

import json

import onnx
from safetensors import safe_open

from pruneboard.artifacts.exporting import description, load_csr, onnx_file, safetensors_file
from verify_cases import record_of


def test_every_format_has_the_same_description(exported, loaded):
    """The metadata of safetensors and ONNX and the manifest of CSR contain one and the same description."""
    out = exported / "export"
    with safe_open(out / safetensors_file.FILE, "pt") as file:
        found = json.loads(file.metadata()[description.KEY])
    properties = {entry.key: entry.value for entry in onnx.load(out / onnx_file.FILE).metadata_props}
    assert json.loads(properties[description.KEY]) == found
    assert load_csr.description(out).items() >= found.items()


def test_it_states_the_records_values(exported):
    """Image normalization, sparsity, accuracy and the hash of the weights are those of the record."""
    record, found = record_of(exported), load_csr.description(exported / "export")
    assert (found["images"]["mean"], found["images"]["std"]) == (record["data"]["mean"], record["data"]["std"])
    assert found["images"]["shape"] == ["batch", 3, record["data"]["image_size"], record["data"]["image_size"]]
    assert found["prunable"]["nonzero"] == record["sparsity"]["nonzero"]
    assert found["test"]["correct"] == record["metrics"]["test"]["correct"]
    assert found["run"]["weights_sha256"] == record["weights_sha256"]


def test_it_contains_no_path(loaded, exported):
    """The description is one line of ASCII without the folder of the run."""
    text = description.dumps(loaded)
    assert text.isascii()
    assert "\n" not in text
    assert exported.parent.name not in text
