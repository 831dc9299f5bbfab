"""Engines compute the run's network, or refuse with a reason."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch

from pruneboard.artifacts.latency.dense_control import fill_zeros
from pruneboard.artifacts.latency.engines import TOLERANCE, EngineInputs, build_engine
from pruneboard.errors import UsageError


@pytest.fixture
def inputs(loaded, tmp_path):
    """Inputs of engines on the CPU."""
    return EngineInputs(loaded, fill_zeros(loaded), torch.device("cpu"), tmp_path)


@pytest.mark.parametrize("name", ["torch", "torch-csr", "scipy-csr", "onnxruntime"])
def test_an_engine_computes_the_runs_network(inputs, name):
    """An engine gives dense torch's logits, including on the control if it has one, and lists its sparse layers."""
    engine = build_engine(name, inputs)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for call, run in ((engine.call, inputs.run), (engine.control, inputs.control)):
            if call is not None:
                expected = run.network(images)
                scale = max(1.0, float(expected.abs().max()))
                assert (call(engine.prepare(images)) - expected).abs().max() <= TOLERANCE * scale
    layers = [name.removesuffix(".weight") for name in inputs.run.weights]
    assert engine.sparse() == {"torch-csr": layers, "scipy-csr": ["fc"]}.get(name, [])
    assert (engine.control is None) == name.endswith("csr")


@pytest.mark.parametrize("name", ["scipy-csr", "onnxruntime"])
def test_cpu_engines_refuse_a_gpu(inputs, name):
    """Engines that run only on the CPU are unavailable with `--device cuda`."""
    with pytest.raises(UsageError, match=f"engine {name} runs only on the CPU"):
        build_engine(name, dataclasses.replace(inputs, device=torch.device("cuda")))


def test_two_of_four_needs_the_pattern_and_a_gpu(inputs):
    """Without a 2:4 pattern the engine is unavailable; with one, it needs a GPU that supports it."""
    with pytest.raises(UsageError, match="no linear layer has two zeros in every four weights"):
        build_engine("torch-2:4", inputs)
    state = {name: torch.zeros_like(tensor) for name, tensor in inputs.run.state.items()}
    with pytest.raises(UsageError, match="needs --device cuda"):
        build_engine("torch-2:4", dataclasses.replace(inputs, run=dataclasses.replace(inputs.run, state=state)))


def test_a_network_without_plain_layers_has_no_sparse_engine(inputs):
    """If no layer can be replaced, the sparse engines are unavailable."""
    run = dataclasses.replace(inputs.run, network=torch.nn.Sequential(timm.layers.StdConv2d(3, 4, 3)))
    for name in ("torch-csr", "scipy-csr"):
        with pytest.raises(UsageError, match=r"no prunable layer is a plain|no plain linear layer"):
            build_engine(name, dataclasses.replace(inputs, run=run))
