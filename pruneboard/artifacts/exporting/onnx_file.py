"""Write `model.onnx`: the whole network, which any ONNX engine runs without torch, timm or pruneboard.

The graph is written as torch traces it, without optimization: batch normalization stays separate from its convolution,
and every tensor keeps its name and its zeros. Engines fuse the two when they load the file.
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
from pruneboard.artifacts.exporting.options import FORMATS
from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.errors import ConformanceError, UsageError

FILE = "model.onnx"
OPSET = 18
INPUT, OUTPUT = "images", "logits"

TOLERANCE = 1e-4
"""Largest allowed difference between logits of ONNX Runtime and torch, relative to the largest logit or to 1. They
differ because ONNX Runtime sums in another order."""

MAX_BYTES = 2**31 - 2**24
"""Largest size of all tensors together. A file of this format holds at most 2 GiB."""

_COMPARED_IMAGES = 3  # not 2, the batch size of the trace: so a batch size fixed by the trace is found


def write(run: FinishedRun, folder: Path) -> str:
    """Write the file, check it, and return a note on the checks.

    Raises:
        UsageError: a package is missing, or the network cannot be written in this format.
        ConformanceError: the file does not hold the run's weights, or gives different logits.
    """
    FORMATS.check_packages("onnx")
    import onnx

    proto = _trace(run)
    _remove_source_notes(proto)
    onnx.helper.set_model_props(proto, {description.KEY: description.dumps(run)})
    path = folder / FILE
    path.write_bytes(proto.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConformanceError(f"{FILE} is not valid ONNX: {_first_line(error)}") from None
    _check_tensors(onnx.load(path), run)
    return f"opset {OPSET}, any batch size; {_compare_logits(path, run)}"


def _trace(run: FinishedRun) -> Any:
    size = run.record["data"]["image_size"]
    if sum(tensor.nbytes for tensor in run.state.values()) > MAX_BYTES:
        raise UsageError("format onnx: the weights are larger than the 2 GiB that one file holds")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside torch itself
            program = torch.onnx.export(
                run.network,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # noqa: BLE001 - tracing runs the network's own code, which may raise anything
        raise UsageError(f"format onnx: torch cannot write {run.plan.load_as}: {_first_line(error)}") from None
    assert program is not None
    return program.model_proto


def replace_weights(path: Path, run: FinishedRun, to: Path) -> None:
    """Copy a graph, with the prunable weights replaced by those of `run`; saves tracing the same network again.

    Args:
        path: a file written by `write`.
        run: has the same network, and the weights of the copy.
        to: path of the copy.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in run.weights:
            tensor.CopyFrom(numpy_helper.from_array(run.state[tensor.name].numpy(), tensor.name))
    to.write_bytes(proto.SerializeToString(deterministic=True))


def _remove_source_notes(proto: Any) -> None:
    """Remove the notes on which of torch's source lines made a node: they differ between installations."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _check_tensors(proto: Any, run: FinishedRun) -> None:
    import numpy as np
    from onnx import numpy_helper

    found = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    for name in run.weights:
        if name not in found or not np.array_equal(found[name], run.state[name].numpy()):
            raise ConformanceError(f"{FILE} does not hold the run's {name}")


def _compare_logits(path: Path, run: FinishedRun) -> str:
    """Compare ONNX Runtime's logits with torch's on random images, and return a note.

    Raises:
        ConformanceError: they differ by more than `TOLERANCE`.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return "not run, since onnxruntime is not installed"
    size = run.record["data"]["image_size"]
    generator = torch.Generator().manual_seed(draws.key(0, "export"))
    images = torch.randn(_COMPARED_IMAGES, 3, size, size, generator=generator)
    with torch.no_grad():
        expected = run.network(images)
    difference = float((runner(path)(images) - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:  # `not <=` rather than `>`: true for NaN too
        raise ConformanceError(
            f"{FILE}: logits differ from torch's by {difference:.3g}; at most {allowed:.3g} is allowed"
        )
    return f"logits of ONNX Runtime within {TOLERANCE:g} of torch's"


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the file in ONNX Runtime: images [batch, 3, size, size] -> logits, on the CPU.

    It uses as many threads as torch has now; they sleep between calls.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Otherwise idle threads keep spinning, and slow down whatever runs at the same time or next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
