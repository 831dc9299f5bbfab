"""The engines: each a function from images to logits, made from the network of a run, or a reason why not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pruneboard.artifacts.exporting import graph
from pruneboard.artifacts.exporting.subject import Subject
from pruneboard.artifacts.latency import sparse
from pruneboard.artifacts.latency.asked import REFERENCE, check_packages
from pruneboard.artifacts.latency.sparse import Form, Forward
from pruneboard.errors import UsageError

TOLERANCE = graph.TOLERANCE
"""How far logits may be from those of dense torch, as a share of the largest of them or of 1."""

ROUNDED, HALF = 1e-2, 5e-2
"""The same on CUDA, where torch's convolutions round to TF32 as it is delivered, and in half precision."""

FIRST_TWO_OF_FOUR = (8, 0)
"""Compute capability from which on a GPU multiplies 2:4 matrices."""


@dataclass(frozen=True)
class Bench:
    """What every engine is made from.

    Attributes:
        subject: the run's network, on the CPU.
        control: the same without a zero.
        device: where torch works.
        folder: an empty one, for files that an engine loads.
    """

    subject: Subject
    control: Subject
    device: torch.device
    folder: Path

    def place(self, network: nn.Module) -> nn.Module:
        """Return a copy of a network where it is to work."""
        return copy.deepcopy(network).to(self.device)


@dataclass(frozen=True)
class Engine:
    """One way to compute the network.

    Attributes:
        name: one of `asked.ENGINES`.
        call: prepared images to logits.
        about: what it does.
        sparse: names of the layers that it has computed without their zeros, once it was called.
        control: the same engine on the network without zeros; None for a form that holds what is not zero and
            nothing else, whose control is dense torch.
        prepare: images to what `call` and `control` take, not timed.
        tolerance: see `TOLERANCE`.
    """

    name: str
    call: Forward
    about: str
    sparse: Callable[[], list[str]] = list
    control: Forward | None = None
    prepare: Forward = lambda images: images
    tolerance: float = TOLERANCE


def make(name: str, bench: Bench) -> Engine:
    """Return an engine of `asked.ENGINES`.

    Raises:
        UsageError: it cannot be had here, or not for this network; the message says why.
    """
    check_packages(name)
    return _MAKERS[name](bench)


def _torch(bench: Bench) -> Engine:
    network, control = bench.place(bench.subject.network), bench.place(bench.control.network)
    return Engine(REFERENCE, network, "the dense network, eager", control=control)


def _torch_csr(bench: Bench) -> Engine:
    network, forms = sparse.swapped(bench.place(bench.subject.network), sparse.torch_csr)
    _refuse_none(forms, "engine torch-csr: no prunable layer is a plain convolution or linear layer")
    tolerance = TOLERANCE if bench.device.type == "cpu" else ROUNDED
    return Engine("torch-csr", network, "torch.sparse_csr_tensor", _used(forms), tolerance=tolerance)


def _scipy_csr(bench: Bench) -> Engine:
    _refuse_cuda(bench, "scipy-csr")
    network, forms = sparse.swapped(bench.subject.network, sparse.scipy_csr)
    _refuse_none(forms, "engine scipy-csr: the network has no plain linear layer")
    return Engine("scipy-csr", network, "scipy.sparse, linear layers only, in one thread", _used(forms))


def _onnxruntime(bench: Bench) -> Engine:
    _refuse_cuda(bench, "onnxruntime")
    graph.write(bench.subject, bench.folder)
    path, other = bench.folder / graph.FILE, bench.folder / "control.onnx"
    graph.refilled(path, bench.control, other)
    about = "the exported graph, every zero computed with"
    return Engine("onnxruntime", graph.runner(path), about, control=graph.runner(other))


def _two_of_four(bench: Bench) -> Engine:
    weights = [bench.subject.state[name] for name in bench.subject.weights]
    if not any(sparse.is_two_of_four(weight) for weight in weights):
        raise UsageError("engine torch-2:4: no linear layer has at most two weights of every four that are not zero")
    if bench.device.type != "cuda" or torch.cuda.get_device_capability(bench.device) < FIRST_TWO_OF_FOUR:
        raise UsageError("engine torch-2:4 needs --device cuda and compute capability 8.0 or more")
    network, dense = (bench.place(s.network).half() for s in (bench.subject, bench.control))
    changed = sparse.to_two_of_four(network)
    if not changed:
        raise UsageError("engine torch-2:4: no layer that has the pattern is of a size that its kernels take")
    return Engine(
        "torch-2:4",
        network,
        "half precision, against its control in half precision",
        lambda: changed,
        control=dense,
        prepare=Tensor.half,
        tolerance=HALF,
    )


_MAKERS: dict[str, Callable[[Bench], Engine]] = {
    REFERENCE: _torch,
    "torch-csr": _torch_csr,
    "scipy-csr": _scipy_csr,
    "onnxruntime": _onnxruntime,
    "torch-2:4": _two_of_four,
}


def _refuse_cuda(bench: Bench, name: str) -> None:
    if bench.device.type != "cpu":
        raise UsageError(f"engine {name} is measured on the CPU only: --device cpu")


def _refuse_none(forms: list[Form], why: str) -> None:
    if not forms:
        raise UsageError(why)


def _used(forms: list[Form]) -> Callable[[], list[str]]:
    return lambda: [form.name for form in forms if form.used]
