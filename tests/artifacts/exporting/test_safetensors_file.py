"""The safetensors file loads into timm's network."""

from __future__ import annotations

import json

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pruneboard.artifacts.exporting import safetensors_file


def test_the_file_loads_into_timms_network(loaded, tmp_path):
    """The network that timm creates from the description takes every tensor, and gives the run's logits bit for bit."""
    safetensors_file.write(loaded, tmp_path)
    with safe_open(tmp_path / safetensors_file.FILE, "pt") as file:
        network = json.loads(file.metadata()["pruneboard"])["network"]
    model = timm.create_model(network["name"], **network["arguments"]).eval()
    model.load_state_dict(load_file(tmp_path / safetensors_file.FILE))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), loaded.network(images))


def test_equal_runs_give_equal_bytes(loaded, tmp_path):
    """Writing the same run twice gives the same file."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.mkdir()
        safetensors_file.write(loaded, path)
    first, second = ((path / safetensors_file.FILE).read_bytes() for path in paths)
    assert first == second
