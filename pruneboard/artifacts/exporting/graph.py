"""ONNX: the whole network as one file, which any ONNX engine runs without torch, timm or pruneboard.

The graph is written as torch traces it, not rewritten: batch normalization stays beside its convolution and every
tensor keeps its name and its zeros. Engines fuse when they load.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruneboard import draws
from pruneboard.artifacts.exporting import description
from pruneboard.artifacts.exporting.asked import check_packages
from pruneboard.artifacts.exporting.subject import Subject
from pruneboard.errors import ConformanceError, UsageError

FILE = "model.onnx"
OPSET = 18
INPUT, OUTPUT = "images", "logits"

TOLERANCE = 1e-4
"""How far logits of ONNX Runtime may be from torch's, as a share of the largest logit or of 1: sums are ordered
otherwise there."""

LARGEST = 2**31 - 2**24
"""Bytes of tensors; a file of the format holds at most 2 GiB."""

_TRIED = 3  # images compared: another number than the network is traced with


def write(subject: Subject, folder: Path) -> str:
    """Write `model.onnx`, check it, and return what is to be said of it.

    Raises:
        UsageError: a package is missing, or the network cannot be written in this form.
        ConformanceError: what was written does not hold the weights, or gives other logits.
    """
    check_packages("onnx")
    import onnx

    proto = _traced(subject)
    _strip(proto)
    onnx.helper.set_model_props(proto, {description.KEY: description.dumps(subject)})
    path = folder / FILE
    path.write_bytes(proto.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConformanceError(f"{FILE} is not sound ONNX: {_first_line(error)}") from None
    _check_tensors(onnx.load(path), subject)
    return f"opset {OPSET}, any batch size; {_compared(path, subject)}"


def _traced(subject: Subject) -> Any:
    size = subject.record["data"]["image_size"]
    if sum(tensor.nbytes for tensor in subject.state.values()) > LARGEST:
        raise UsageError("format onnx: the weights are larger than the 2 GiB that one file holds")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own parts, to each other
            program = torch.onnx.export(
                subject.network,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # noqa: BLE001 - tracing runs foreign code, and shares no type of error
        raise UsageError(f"format onnx: torch cannot write {subject.plan.load_as}: {_first_line(error)}") from None
    assert program is not None
    return program.model_proto


def refilled(path: Path, subject: Subject, to: Path) -> None:
    """Write a graph again with the prunable weights of another subject of the same network, which need no new trace.

    Args:
        path: a file that `write` made.
        subject: whose weights it is to hold.
        to: the new file.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in subject.weights:
            tensor.CopyFrom(numpy_helper.from_array(subject.state[tensor.name].numpy(), tensor.name))
    to.write_bytes(proto.SerializeToString(deterministic=True))


def _strip(proto: Any) -> None:
    """Remove notes on where in torch's sources a node came from: they differ between installations."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _check_tensors(proto: Any, subject: Subject) -> None:
    import numpy as np
    from onnx import numpy_helper

    found = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    for name in subject.weights:
        if name not in found or not np.array_equal(found[name], subject.state[name].numpy()):
            raise ConformanceError(f"{FILE} does not hold {name} as the run has it")


def _compared(path: Path, subject: Subject) -> str:
    """Return how far ONNX Runtime's logits are from torch's, on images drawn for it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "not run, since onnxruntime is not installed"
    size = subject.record["data"]["image_size"]
    images = torch.randn(_TRIED, 3, size, size, generator=torch.Generator().manual_seed(draws.key(0, "export")))
    with torch.no_grad():
        expected = subject.network(images)
    apart = float((runner(path)(images) - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not apart <= TOLERANCE * scale:
        raise ConformanceError(f"{FILE} gives logits {apart:.3g} from torch's, where {TOLERANCE * scale:.3g} may be")
    return f"logits of ONNX Runtime within {TOLERANCE:g} of torch's"


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what ONNX Runtime makes of the file: images [batch, 3, size, size] on the CPU to logits.

    It works on the CPU with as many threads as torch has now, which rest between calls.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Idle threads would go on spinning and take the processor from whatever runs beside or next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
