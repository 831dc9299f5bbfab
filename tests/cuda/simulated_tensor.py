"""A tensor that says it is on a CUDA device and keeps its values on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import cuda_counts

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
_LEGACY_TYPES = {
    "BoolTensor": torch.bool,
    "DoubleTensor": torch.float64,
    "FloatTensor": torch.float32,
    "HalfTensor": torch.float16,
    "LongTensor": torch.int64,
}
_ARGUMENTS_OF_TO = ("device", "dtype", "non_blocking", "memory_format")


class CudaTensor(Tensor):
    """On CUDA for all Python code; C++ sees the meta device, so only dispatched operations reach the values.

    Attributes:
        values: the CPU tensor with the values; views of one tensor share its storage.
    """

    values: Tensor
    _place: torch.device
    _allocation: cuda_counts.Allocation

    @staticmethod
    def __new__(cls, values: Tensor, place: torch.device):
        """Wrap a CPU tensor as one on `place`."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="meta",
            requires_grad=False,
            _extra_dispatch_keys=_AUTOCAST,
        )
        made.values, made._place = values, place
        made._allocation = cuda_counts.Allocation(values)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Carry out an operation on the values."""
        from simulated_operations import carry_out

        return carry_out(func, args, kwargs or {})

    device = property(lambda self: self._place)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def _set_data(self, other: Tensor) -> None:
        if not isinstance(other, CudaTensor) or other.shape != self.shape or other.dtype != self.dtype:
            raise NotImplementedError("the simulation replaces data only by data of the same shape and type")
        self.values, self._allocation = other.values, cuda_counts.Allocation(other.values)

    data = property(lambda self: self.detach(), _set_data)

    def get_device(self) -> int:
        return self._place.index

    def is_pinned(self, *_: Any) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        like = next((argument for argument in args if isinstance(argument, Tensor)), None)
        parsed = [like.device if argument is like else argument for argument in args] if like is not None else args
        known = {name: value for name, value in kwargs.items() if name in _ARGUMENTS_OF_TO}
        device, dtype, _, memory_format = torch._C._nn._parse_to(*parsed, **known)
        if like is not None:
            dtype = like.dtype
        copy = bool(kwargs.get("copy")) or (len(args) > 3 and args[3] is True)
        return self._converted(device, dtype, memory_format, copy=copy)

    def _converted(self, device: Any, dtype: Any, memory_format: Any, *, copy: bool) -> Tensor:
        from simulated_operations import on_cuda

        place = self._place if device is None else device
        place = on_cuda(place) if place.type == "cuda" else place
        same_layout = memory_format in (None, torch.preserve_format) or self.is_contiguous(memory_format=memory_format)
        if place == self._place and dtype in (None, self.dtype) and same_layout and not copy:
            return self
        return torch.ops.aten._to_copy.default(self, dtype=dtype, device=place, memory_format=memory_format)

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.to("cpu")

    def cuda(self, device: Any = None, **_: Any) -> Tensor:
        return self if device is None else self.to(torch.device("cuda", device) if isinstance(device, int) else device)

    def type(self, dtype: Any = None, **_: Any) -> Any:
        if dtype is None:
            return "torch.cuda." + self.values.type().removeprefix("torch.")
        return self.to(dtype if isinstance(dtype, torch.dtype) else _LEGACY_TYPES[str(dtype).rpartition(".")[2]])

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(data, device=self._place, dtype=kwargs.get("dtype", self.dtype))

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self._place} device type tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        cuda_counts.synchronization("tolist")
        return self.values.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.values!r}, device={self._place})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: Any) -> Tensor:
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a CUDA tensor is pickled: files and messages must hold CPU tensors")
