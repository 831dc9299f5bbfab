"""Replacements for `torch.cuda`, for `torch.Generator`, and for process groups that use NCCL."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist

import cuda_counts
from simulated_operations import backends

CAPABILITY = (9, 0)
CUDA_VERSION, CUDNN_VERSION, NCCL_VERSION = "13.2", 92600, (2, 30, 7)


class Generator(torch._C.Generator):
    """A generator that draws on the CPU and says on which device it is."""

    def __new__(cls, device: Any = "cpu"):
        """Create a generator of the CPU."""
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        """Remember the device."""
        self._place = torch.device(device)

    device = property(lambda self: self._place)


class Stream:
    """A stream or an event: nothing to wait for, because operations are carried out at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept what a stream and an event accept."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be ended."""

    def nothing(self, *_: Any) -> None:
        """Wait for nothing."""

    record = wait = wait_stream = wait_event = nothing

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        cuda_counts.synchronization("stream.synchronize")

    def elapsed_time(self, *_: Any) -> float:
        return 0.0


class Event(Stream):
    """An event."""


class Gpus:
    """The GPUs of this process: those of the machine, or the ones that CUDA_VISIBLE_DEVICES names.

    Attributes:
        initialized: whether this process has used CUDA, which creates a context on a real GPU.
    """

    def __init__(self, count: int, memory: int) -> None:
        """Create `count` GPUs with `memory` bytes each."""
        self.initialized = False
        self._count, self._memory = count, memory
        self._current = 0

    def visible(self) -> list[int]:
        """Return the machine's numbers of the visible GPUs."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return list(range(self._count))
        return [int(number) for number in named.split(",") if number and 0 <= int(number) < self._count]

    def use(self, device: Any = None) -> int:
        """Return the index of a device, by default the current one, after creating a context."""
        self.initialized = True
        if isinstance(device, (str, torch.device)):
            device = torch.device(device).index
        index = self._current if device is None else int(device)
        if not 0 <= index < len(self.visible()):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
        return index

    def set_current(self, device: Any) -> None:
        self._current = self.use(device)

    def exchange(self, index: int) -> int:
        """Make a device current, and return the one before; a negative index changes nothing."""
        before = self._current
        if index >= 0:
            self.set_current(index)
        return before

    def properties(self, device: Any = None) -> Any:
        index = self.use(device)
        name = f"Simulated GPU {self.visible()[index]}"
        major, minor = CAPABILITY
        return types.SimpleNamespace(
            name=name, total_memory=self._memory, major=major, minor=minor, multi_processor_count=132, uuid=name
        )

    def free_memory(self, *_: Any) -> tuple[int, int]:
        self.use()
        return self._memory - cuda_counts.MEMORY.used, self._memory

    def module(self) -> dict[str, Any]:
        """Return name -> replacement, for attributes of `torch.cuda`."""
        # torch.compile has a table of torch's functions, in which no two may be the same object.
        return {name: functools.partial(f) if callable(f) else f for name, f in self._module().items()} | {
            "Event": Event,
            "Stream": Stream,
        }

    def _module(self) -> dict[str, Any]:
        memory = cuda_counts.MEMORY
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        return {
            "_exchange_device": self.exchange,
            "_is_in_bad_fork": lambda: False,
            "_lazy_call": nothing,
            "_lazy_init": self.use,
            "_maybe_exchange_device": self.exchange,
            "current_device": self.use,
            "current_stream": Stream,
            "default_generators": tuple(Generator(f"cuda:{index}") for index in range(self._count)),
            "default_stream": Stream,
            "device_count": lambda: len(self.visible()),
            "empty_cache": nothing,
            "get_device_capability": lambda *_: CAPABILITY,
            "get_device_name": lambda device=None: self.properties(device).name,
            "get_device_properties": self.properties,
            "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
            "is_available": lambda: bool(self.visible()),
            "is_bf16_supported": lambda *_, **__: True,
            "is_current_stream_capturing": lambda: False,
            "is_initialized": lambda: self.initialized,
            "manual_seed": nothing,
            "manual_seed_all": nothing,
            "max_memory_allocated": lambda *_: memory.peak,
            "max_memory_reserved": lambda *_: memory.peak,
            "mem_get_info": self.free_memory,
            "memory_allocated": lambda *_: memory.used,
            "memory_reserved": lambda *_: memory.used,
            "reset_peak_memory_stats": lambda *_: memory.reset_peak(),
            "set_device": self.set_current,
            "set_rng_state": nothing,
            "stream": Stream,
            "synchronize": lambda *_: cuda_counts.synchronization("torch.cuda.synchronize"),
        }


def process_groups() -> dict[str, Any]:
    """Return name -> replacement, for functions of `torch.distributed`: gloo carries out what NCCL is asked for."""
    start, further, backend_of = dist.init_process_group, dist.new_group, dist.get_backend

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> None:
        start("gloo" if backend == "nccl" else backend, *args, **kwargs)
        backends[dist.group.WORLD.group_name] = backend

    def new_group(*args: Any, **kwargs: Any) -> Any:
        requested = kwargs.get("backend") or backends.get(dist.group.WORLD.group_name)
        if kwargs.get("backend") == "nccl":
            kwargs["backend"] = "gloo"
        group = further(*args, **kwargs)
        if isinstance(group, dist.ProcessGroup):
            backends[group.group_name] = requested
        return group

    def get_backend(group: Any = None) -> str:
        name = (group or dist.group.WORLD).group_name
        return backends.get(name) or backend_of(group)

    return {"init_process_group": init_process_group, "new_group": new_group, "get_backend": get_backend}
