"""What operations do on a simulated GPU: check devices, count costs, and compute with the values on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import cuda_counts
import kernel_costs
from simulated_tensor import CudaTensor

CPU = torch.device("cpu")
TO_COPY = torch.ops.aten._to_copy.default
INDEXING = ("index", "index_put_", "_index_put_impl_", "_unsafe_index")

PINNED = "_pinned"
"""Attribute of a CPU tensor that `pin_memory` returned."""

backends: dict[str, str | None] = {}
"""Name of a process group -> the backend that was requested; gloo carries out all of them."""


def on_cuda(device: Any) -> torch.device:
    """Return a CUDA device with its index, which is that of the current device if `device` has none."""
    device = torch.device(device)
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Carry out an operation with a tensor or a result on CUDA."""
    name = func._schema.name.rpartition("::")[2]
    leaves = tree_leaves((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, CudaTensor)]
    host = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, CudaTensor)]
    target = kwargs.get("device")
    place = here[0].device if target is None or torch.device(target).type == "meta" else torch.device(target)
    collective = is_collective(func)
    if collective:
        check_backend(func, args, kwargs)
    if name == "_to_copy" or (name == "copy_" and here and host):
        _count_copy(name, args, kwargs, place)
    else:
        _check_devices(func, name, args, here, host if not collective else [])
        _count(func, name, args, here, collective=collective)
    found = func(*tree_map(_values, args), **_on_cpu(kwargs))
    if collective or place.type == "cpu":
        return found
    # An operation in place returns the tensor that it was given.
    given = {id(_values(leaf)): leaf for leaf in leaves if isinstance(leaf, Tensor)}

    def on_device(item: Any) -> Any:
        if id(item) in given or not isinstance(item, Tensor):
            return given.get(id(item), item)
        return CudaTensor(item, place)

    return tree_map(on_device, found)


def _values(item: Any) -> Any:
    return item.values if isinstance(item, CudaTensor) else item


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if changed.get("device") is not None:
        changed["device"] = CPU
    return {name: tree_map(_values, value) for name, value in changed.items()}


def _count_copy(name: str, args: Any, kwargs: dict[str, Any], place: torch.device) -> None:
    """Count a conversion, or a copy between host and device; one that uses pageable memory makes the host wait."""
    source = args[1] if name == "copy_" else args[0]
    to_device = isinstance(args[0], CudaTensor) if name == "copy_" else place.type == "cuda"
    if isinstance(source, CudaTensor):
        if not to_device:
            cuda_counts.synchronization("copy to the host")
            return
        cuda_counts.operation(name, 1)
        return
    blocking = not (args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking"))
    cuda_counts.operation("copy from the host", 1)
    if blocking or not getattr(source, PINNED, False):
        cuda_counts.synchronization("copy from pageable memory")


def _check_devices(func: Any, name: str, args: Any, here: list[CudaTensor], host: list[Tensor]) -> None:
    """Raise the error that CUDA raises for tensors on different devices."""
    if not here:
        return
    wrong = [tensor for tensor in host if tensor.dim() or name in kernel_costs.NO_HOST_SCALAR]
    if name in INDEXING and isinstance(args[0], CudaTensor):  # indices may be on the host, and are copied
        allowed = {id(index) for index in args[1]}
        for _ in filter(lambda tensor: id(tensor) in allowed, wrong):
            cuda_counts.synchronization("index from the host")
        wrong = [tensor for tensor in wrong if id(tensor) not in allowed]
    places = {str(tensor.device) for tensor in (*here, *wrong)}
    if len(places) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(places, reverse=True))}! ({func}) at {cuda_counts.source_lines()}"
        )


def _count(func: Any, name: str, args: Any, here: list[CudaTensor], *, collective: bool) -> None:
    if collective:
        cuda_counts.operation(f"nccl {name}", 1)
        return
    if here and name in kernel_costs.SYNCHRONIZING:
        cuda_counts.synchronization(name)
    if here and name in INDEXING:
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                cuda_counts.synchronization("index by a mask")
    results = [result.alias_info for result in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in results)
    if not is_view and name not in kernel_costs.NO_KERNEL:
        cuda_counts.operation(name, kernel_costs.kernels(name, args))


def is_collective(func: Any) -> bool:
    """Return whether an operation communicates between processes."""
    return bool(func.namespace == "c10d")


def check_backend(func: Any, args: Any, kwargs: Any) -> None:
    """Raise the error of NCCL if a process group that was requested with it gets a CPU tensor."""
    leaves = tree_leaves((args, kwargs))
    on_host = any(isinstance(leaf, Tensor) and not isinstance(leaf, CudaTensor) for leaf in leaves)
    groups = [leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type())]
    names = [torch.distributed.ProcessGroup.unbox(group).group_name for group in groups]
    if on_host and "nccl" in map(backends.get, names):
        raise RuntimeError(
            f"No backend type associated with device type cpu ({func} on an NCCL group) at {cuda_counts.source_lines()}"
        )


class _Meta(threading.local):
    """Whether the function that is running was asked for a tensor on the meta device, or was given one."""

    requested = False


_meta = _Meta()


def _from_python(leaves: list[Any]) -> bool:
    """Return whether Python code wants a meta tensor; else C++ creates one like a `CudaTensor`, which is one to it."""
    by_default = str(_device.CURRENT_DEVICE) == "meta"
    return _meta.requested or by_default or any(isinstance(leaf, Tensor) for leaf in leaves)


class Factories(TorchDispatchMode):
    """Makes a `CudaTensor` of every tensor that is created on CUDA or sent there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Carry out an operation."""
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, CudaTensor) for leaf in leaves):
            return carry_out(func, args, kwargs)
        if is_collective(func):
            check_backend(func, args, kwargs)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else CPU
        if device.type == "cuda":
            return carry_out(func, args, kwargs | {"device": on_cuda(device)})
        if device.type == "meta" and not _from_python(leaves):
            return carry_out(func, args, kwargs | {"device": on_cuda("cuda")})
        return func(*args, **kwargs)


class Functions(TorchFunctionMode):
    """Sends tensors to CUDA, and checks that a generator is on the device of what it draws."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func in (torch.Tensor.to, torch.Tensor.cuda) and not isinstance(args[0], CudaTensor):
            sent = _send(func, *args, **kwargs)  # C++ would need a device
            if sent is not None:
                return sent
        before, device = _meta.requested, kwargs.get("device")
        _meta.requested = (device is not None and torch.device(device).type == "meta") or any(map(_is_meta, args))
        try:
            return self._call(func, args, kwargs)
        finally:
            _meta.requested = before

    @staticmethod
    def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        generator = kwargs.get("generator")
        if isinstance(generator, torch._C.Generator):
            _check_generator(generator, args, kwargs)
        return func(*args, **kwargs)


def _is_meta(item: Any) -> bool:
    return type(item) in (Tensor, torch.nn.Parameter) and item.is_meta


def _check_generator(generator: Any, args: Any, kwargs: dict[str, Any]) -> None:
    drawn = args[0].device if args and isinstance(args[0], Tensor) else CPU
    place = torch.device(kwargs.get("device") or drawn)
    if generator.device.type != place.type:
        raise RuntimeError(
            f"Expected a '{place.type}' device type for generator but found '{generator.device.type}' "
            f"at {cuda_counts.source_lines()}"
        )


def _send(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    """Return a CPU tensor's copy on CUDA; None if the arguments of `to` or `cuda` do not ask for one."""
    if func is torch.Tensor.cuda:
        index = args[0] if args else kwargs.get("device")
        args = (torch.device("cuda", index) if isinstance(index, int) else index or torch.device("cuda"),)
        kwargs = {name: kwargs[name] for name in ("non_blocking",) if name in kwargs}
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    known = {name: value for name, value in kwargs.items() if name != "copy"}
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args[:3], **known)
    if device is None or device.type != "cuda":
        return None
    options = {"device": on_cuda(device), "dtype": dtype, "memory_format": memory_format, "non_blocking": non_blocking}
    if tensor.requires_grad and torch.is_grad_enabled():
        return _Sent.apply(tensor, options)
    return carry_out(TO_COPY, (tensor.detach() if tensor.requires_grad else tensor,), options)


class _Sent(torch.autograd.Function):
    """A copy to CUDA whose gradient returns to the host."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, options: dict[str, Any]) -> Tensor:
        """Copy."""
        ctx.dtype = tensor.dtype
        return carry_out(TO_COPY, (tensor.detach(),), options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Copy the gradient back."""
        return gradient.to("cpu", ctx.dtype), None
