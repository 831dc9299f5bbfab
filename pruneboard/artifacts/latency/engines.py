"""Build the engines: functions from images to logits. An engine that is not available raises an error with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruneboard.artifacts.exporting import onnx_file
from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.artifacts.latency import sparse_layers
from pruneboard.artifacts.latency.options import ENGINES, REFERENCE
from pruneboard.artifacts.latency.sparse_layers import Forward, SparseForward
from pruneboard.errors import UsageError

TOLERANCE = onnx_file.TOLERANCE
"""Largest allowed difference between an engine's logits and dense torch's, relative to the largest logit or to 1."""

CUDA_TOLERANCE, HALF_TOLERANCE = 1e-2, 5e-2
"""The same on CUDA, where torch's convolutions round to TF32 by default, and in half precision."""

MIN_CAPABILITY_TWO_OF_FOUR = (8, 0)
"""Lowest compute capability of a GPU that can multiply 2:4 matrices."""


@dataclass(frozen=True)
class EngineInputs:
    """What engines are built from.

    Attributes:
        run: the run, with its network on the CPU.
        control: the same run with its zeros filled.
        device: the device of torch's engines.
        folder: an empty folder for files that an engine loads.
    """

    run: FinishedRun
    control: FinishedRun
    device: torch.device
    folder: Path

    def on_device(self, network: nn.Module) -> nn.Module:
        """Return a copy of a network on the device."""
        return copy.deepcopy(network).to(self.device)


@dataclass(frozen=True)
class Engine:
    """One way to compute the network.

    Attributes:
        name: one of `options.ENGINES`.
        call: computes logits from prepared images.
        note: what it runs.
        sparse: returns the names of the layers in which it skips zeros; valid after the first call.
        control: the same engine on the network with its zeros filled; None for a format that stores only non-zeros,
            which is compared with dense torch.
        prepare: converts images to the input of `call` and `control`; not timed.
        tolerance: see `TOLERANCE`.
    """

    name: str
    call: Forward
    note: str
    sparse: Callable[[], list[str]] = list
    control: Forward | None = None
    prepare: Forward = lambda images: images
    tolerance: float = TOLERANCE


def build_engine(name: str, inputs: EngineInputs) -> Engine:
    """Return an engine of `options.ENGINES`.

    Raises:
        UsageError: it is not available here, or not for this network; the message gives the reason.
    """
    ENGINES.check_packages(name)
    return _BUILDERS[name](inputs)


def _torch(inputs: EngineInputs) -> Engine:
    network, control = inputs.on_device(inputs.run.network), inputs.on_device(inputs.control.network)
    return Engine(REFERENCE, network, "the dense network, eager", control=control)


def _torch_csr(inputs: EngineInputs) -> Engine:
    network, forwards = sparse_layers.with_sparse_layers(inputs.on_device(inputs.run.network), sparse_layers.torch_csr)
    _require_sparse_layers(forwards, "engine torch-csr: no prunable layer is a plain convolution or linear layer")
    tolerance = TOLERANCE if inputs.device.type == "cpu" else CUDA_TOLERANCE
    return Engine("torch-csr", network, "torch.sparse_csr_tensor", _used_layers(forwards), tolerance=tolerance)


def _scipy_csr(inputs: EngineInputs) -> Engine:
    _require_cpu(inputs, "scipy-csr")
    network, forwards = sparse_layers.with_sparse_layers(inputs.run.network, sparse_layers.scipy_csr)
    _require_sparse_layers(forwards, "engine scipy-csr: the network has no plain linear layer")
    return Engine("scipy-csr", network, "scipy.sparse, linear layers only, in one thread", _used_layers(forwards))


def _onnxruntime(inputs: EngineInputs) -> Engine:
    _require_cpu(inputs, "onnxruntime")
    onnx_file.write(inputs.run, inputs.folder)
    path, control = inputs.folder / onnx_file.FILE, inputs.folder / "control.onnx"
    onnx_file.replace_weights(path, inputs.control, control)
    note = "the exported graph, zeros included"
    return Engine("onnxruntime", onnx_file.runner(path), note, control=onnx_file.runner(control))


def _two_of_four(inputs: EngineInputs) -> Engine:
    weights = [inputs.run.state[name] for name in inputs.run.weights]
    if not any(sparse_layers.is_two_of_four(weight) for weight in weights):
        raise UsageError("engine torch-2:4: no linear layer has two zeros in every four weights")
    if inputs.device.type != "cuda" or torch.cuda.get_device_capability(inputs.device) < MIN_CAPABILITY_TWO_OF_FOUR:
        raise UsageError("engine torch-2:4 needs --device cuda and compute capability 8.0 or more")
    network, dense = (inputs.on_device(run.network).half() for run in (inputs.run, inputs.control))
    changed = sparse_layers.convert_to_two_of_four(network)
    if not changed:
        raise UsageError("engine torch-2:4: no layer with the pattern has a shape that its kernels support")
    return Engine(
        "torch-2:4",
        network,
        "half precision; its control is dense in half precision",
        lambda: changed,
        control=dense,
        prepare=Tensor.half,
        tolerance=HALF_TOLERANCE,
    )


_BUILDERS: dict[str, Callable[[EngineInputs], Engine]] = {
    REFERENCE: _torch,
    "torch-csr": _torch_csr,
    "scipy-csr": _scipy_csr,
    "onnxruntime": _onnxruntime,
    "torch-2:4": _two_of_four,
}


def _require_cpu(inputs: EngineInputs, name: str) -> None:
    if inputs.device.type != "cpu":
        raise UsageError(f"engine {name} runs only on the CPU: use --device cpu")


def _require_sparse_layers(forwards: list[SparseForward], message: str) -> None:
    if not forwards:
        raise UsageError(message)


def _used_layers(forwards: list[SparseForward]) -> Callable[[], list[str]]:
    return lambda: [forward.name for forward in forwards if forward.used]
