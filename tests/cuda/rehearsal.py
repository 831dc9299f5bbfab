"""A rehearsal of CUDA on a machine without a GPU: tensors that say they are on CUDA and hold real values on the CPU.

Inside `rehearsal()`, torch.cuda is simulated, and whatever is created on CUDA or sent there becomes a `CudaTensor`.
Code then takes the branches that it takes on a GPU, with real numbers, and what a CPU hides becomes visible:

* Mixed devices raise an error: operations on tensors of two devices, generators of the wrong device, `.numpy()`, and
  CPU tensors in a process group with NCCL.
* Host synchronizations are counted with the source lines that cause them: `.item()`, `bool()`, `nonzero`, boolean
  indices, copies to the host, and copies from pageable memory.
* Operations are counted, with an estimate of their kernels, and so is allocated memory.

Not visible: the kernels themselves (accuracy, determinism), time, streams, autocast's casts, torch.compile, and NCCL.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch._dynamo import trace_rules
from torch.utils import _device

import cuda_counts
from pruneboard.processes import child
from pruneboard.testing import pair
from pruneboard.training import engine, loop
from simulated_operations import PINNED, Factories, Functions
from simulated_torch_cuda import CUDA_VERSION, CUDNN_VERSION, NCCL_VERSION, Generator, Gpus, process_groups

MEMORY_BYTES = 80 << 30


@dataclass(frozen=True)
class Rehearsal:
    """What `rehearsal` yields.

    Attributes:
        gpus: the simulated GPUs.
        counts: what happened since the start.
    """

    gpus: Gpus
    counts: cuda_counts.Counts


@contextlib.contextmanager
def rehearsal(devices: int = 1, memory: int = MEMORY_BYTES) -> Iterator[Rehearsal]:
    """Simulate a machine with `devices` GPUs during the block, also in processes that pruneboard starts.

    Args:
        devices: number of GPUs.
        memory: bytes of each GPU.
    """
    _device._device_constructors()  # torch keeps this set of functions, so it must be made before one is replaced
    gpus, built_for_cuda = Gpus(devices, memory), bool(torch.version.cuda)
    cuda_counts.MEMORY.reset_peak()
    with contextlib.ExitStack() as stack:
        stack.callback(trace_rules.clear_lru_cache)  # torch.compile's table of torch's functions
        for name, value in gpus.module().items():
            _replace(stack, torch.cuda, name, value)
        for name, value in process_groups().items():
            _replace(stack, dist, name, value)
        _replace(stack, torch.cuda.nccl, "version", lambda: NCCL_VERSION)
        _replace(stack, torch.version, "cuda", CUDA_VERSION)
        _replace(stack, torch.backends.cudnn, "version", lambda: CUDNN_VERSION)
        _replace(stack, torch, "Generator", Generator)
        _replace(stack, torch, "tensor", functools.partial(_tensor, torch.tensor))
        _replace(stack, torch.Tensor, "pin_memory", _pin_memory)
        _replace(stack, torch.nn.Module, "_apply", functools.partialmethod(_apply, torch.nn.Module._apply))
        _replace(stack, torch.utils, "swap_tensors", functools.partial(_swap, torch.utils.swap_tensors))
        _replace(stack, child, "_main", functools.partial(_main_of_child, devices, memory))
        _replace(stack, loop, "CALIBRATION_BATCHES", 2)  # all of them would be most of the operations of a small run
        _replace(stack, torch.backends.cudnn, "enabled", False)  # C++ would choose it by the meta device
        if built_for_cuda:
            torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, which FakeTensorMode uses too
        stack.enter_context(Functions())
        stack.enter_context(Factories())
        yield Rehearsal(gpus, stack.enter_context(cuda_counts.counting()))


@contextlib.contextmanager
def isolated_rehearsal(devices: int = 2) -> Iterator[Rehearsal]:
    """Rehearse with process groups and processes of its own: none from before, and none that stay."""
    _end_shared()
    with rehearsal(devices) as simulated:
        try:
            yield simulated
        finally:
            _end_shared()


def _end_shared() -> None:
    for shared in list(pair._current):
        shared.close()
    engine.shutdown()


def _replace(stack: contextlib.ExitStack, target: Any, name: str, value: Any) -> None:
    stack.callback(setattr, target, name, getattr(target, name))
    setattr(target, name, value)


def _tensor(original: Any, data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    """Create a tensor from numbers; C++ would create it on the device."""
    made = original(data, **options)
    return made if device is None else made.to(device)


def _pin_memory(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    """Return a copy in memory that the device reads without the host."""
    pinned = tensor.clone()
    setattr(pinned, PINNED, True)
    return pinned


def _apply(module: torch.nn.Module, original: Any, *arguments: Any, **options: Any) -> torch.nn.Module:
    """Convert a module by swapping its tensors, because a CPU tensor cannot become a `CudaTensor` in place."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return original(module, *arguments, **options)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _swap(original: Any, one: torch.Tensor, other: torch.Tensor) -> None:
    """Swap two tensors, unless they are the same already, as when a module stays where it is."""
    if type(one) is type(other) and one.device == other.device and 0 != one.data_ptr() == other.data_ptr():
        return
    original(one, other)


def _main_of_child(devices: int, memory: int, *arguments: Any) -> None:
    """Run `child._main` in a rehearsal of its own, in a process that was started from inside one."""
    assert threading.current_thread() is threading.main_thread()
    original = child._main
    with rehearsal(devices, memory):
        original(*arguments)
