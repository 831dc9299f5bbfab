"""State that everything in a process shares: global random states, and settings such as the environment variables."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the global random states, by the names used in messages."""
    found: dict[str, Any] = {
        "the random state of torch": torch.get_rng_state().numpy().tobytes(),
        "the random state of numpy": _numpy_state(),
        "the random state of Python": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["the random state of torch.cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return found


def _numpy_state() -> tuple[Any, ...]:
    kind, key, *rest = np.random.get_state()  # noqa: NPY002 - reads the state, draws nothing
    return (kind, np.asarray(key).tobytes(), *rest)


def settings() -> dict[str, Any]:
    """Return the settings, by the names used in messages."""
    return {name: get() for name, (get, _) in _SETTINGS.items()}


@contextmanager
def settings_restored() -> Iterator[None]:
    """Restore the settings after the block."""
    before = settings()
    try:
        yield
    finally:
        for name, (get, put) in _SETTINGS.items():
            if get() != before[name]:
                put(before[name])


def _benchmark() -> bool:
    return torch.backends.cudnn.benchmark


def _set_benchmark(value: bool) -> None:  # noqa: FBT001 - a setting's value
    torch.backends.cudnn.benchmark = value


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _set_environment(values: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the environment": (_environment, _set_environment),
    "the working directory": (os.getcwd, os.chdir),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "torch's matrix multiplication precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cuDNN's benchmark mode": (_benchmark, _set_benchmark),
}
