"""State that everything in a process shares: global random states, settings, hooks, threads."""

from __future__ import annotations

import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruneboard.processes import own_threads


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


def settings(names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the settings called `names`, or all, by the names used in messages."""
    return {name: _SETTINGS[name][0]() for name in (_SETTINGS if names is None else names)}


@contextmanager
def settings_restored(*, without: Container[str] = ()) -> Iterator[None]:
    """Restore the settings after the block, except those in `without`, and threads, which cannot be ended."""
    before = settings()
    try:
        yield
    finally:
        for name, (get, put) in _SETTINGS.items():
            if name not in without and get() != before[name]:
                put(before[name])


def change(before: Mapping[str, Any], *, without: Container[str] = ()) -> str | None:
    """Return what differs from `before` as the end of a sentence, such as `changed the working directory`, or None.

    Args:
        before: settings, as `settings` returned them.
        without: names of settings to ignore.
    """
    after = settings(before)
    for name in before:
        if name == THREADS and name not in without and after[name] > before[name]:  # one that ends is no change
            return f"left {_newest_thread()} running"
        if name != THREADS and name not in without and before[name] != after[name]:
            return f"changed {name}"
    return None


def _newest_thread() -> str:
    *_, last = threading.enumerate()
    return "a thread" if last is threading.main_thread() else f"the thread {last.name!r}"


def _directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was deleted
        return None


def _set_directory(folder: Path | None) -> None:
    with suppress(OSError):
        if folder is not None:
            os.chdir(folder)


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _set_environment(values: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _flushes_denormals() -> bool:
    # torch sets the processor's flag, but does not return it. Python's numbers obey it, and read nothing from a device.
    return _DENORMAL * 1.0 == 0


_DENORMAL = 5e-324


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(handlers: Sequence[Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other thread may
        for number, handler in zip(_SIGNALS, handlers, strict=True):
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


# Without SIGCHLD: torch's DataLoader sets its handler when it starts processes.
_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT),
)

_GLOBAL_HOOKS = tuple(
    value
    for module in map(import_module, ("torch.nn.modules.module", "torch.optim.optimizer"))
    for name, value in vars(module).items()
    if name.startswith("_global_") and isinstance(value, dict)
)


def _global_hooks() -> list[dict[Any, Any]]:
    return [dict(hooks) for hooks in _GLOBAL_HOOKS]


def _set_global_hooks(before: list[dict[Any, Any]]) -> None:
    for hooks, content in zip(_GLOBAL_HOOKS, before, strict=True):
        hooks.clear()
        hooks.update(content)


def _set_callbacks(callbacks: list[Any]) -> None:
    gc.callbacks[:] = callbacks


def _timers() -> list[bool]:
    return [any(signal.getitimer(timer)) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]


def _stop_timers(before: list[bool]) -> None:
    timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    for timer, was_active in zip(timers, before, strict=True):
        if not was_active:
            signal.setitimer(timer, 0)


def _modes() -> tuple[int, int]:
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()


_FLAGS = {
    "torch's use of oneDNN": "mkldnn_enabled",
    "oneDNN's deterministic mode": "mkldnn_deterministic",
    "torch's use of NNPACK": "nnpack_enabled",
    "torch's use of cuDNN": "cudnn_enabled",
    "cuDNN's benchmark mode": "cudnn_benchmark",
    "cuDNN's deterministic mode": "cudnn_deterministic",
}
"""Name -> the part of the names of torch's functions that get and set it; not every version of torch has all."""


def _umask() -> int:
    mask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(mask)
    return mask


_LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE)


def _set_limits(limits: Sequence[tuple[int, int]]) -> None:
    for limit, values in zip(_LIMITS, limits, strict=True):
        with suppress(OSError, ValueError):  # a lowered hard limit cannot be raised again
            resource.setrlimit(limit, values)


def _autocast() -> list[Any]:
    return [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]


def _set_autocast(values: Sequence[Any]) -> None:
    for device, (enabled, dtype) in zip(("cpu", "cuda"), values, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def _set_streams(streams: Sequence[Any]) -> None:
    sys.stdout, sys.stderr = streams


_MORE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's autocast": (_autocast, _set_autocast),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "the file mode mask": (_umask, os.umask),
    "the resource limits": (lambda: [resource.getrlimit(limit) for limit in _LIMITS], _set_limits),
    "the standard streams": (lambda: [sys.stdout, sys.stderr], _set_streams),
    "the level of all log messages": (lambda: logging.root.manager.disable, logging.disable),
    "whether garbage is collected": (gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
}
if hasattr(torch._C, "_get_fp32_precision_getter"):
    _MORE["oneDNN's precision of convolutions"] = (
        lambda: torch._C._get_fp32_precision_getter("mkldnn", "conv"),
        lambda precision: torch._C._set_fp32_precision_setter("mkldnn", "conv", precision),
    )
if hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
    _MORE["torch's hooks of saved tensors"] = (
        lambda: torch._C._autograd._top_saved_tensors_default_hooks(True),  # noqa: FBT003 - it takes no names
        lambda _: torch._C._autograd._pop_saved_tensors_default_hooks(),
    )


ENVIRONMENT, DIRECTORY, THREADS = "the environment variables", "the working directory", "the number of threads"
HANDLERS, DENORMALS = "the signal handlers", "torch's treatment of denormal numbers"
GLOBAL_HOOKS = "torch's global hooks"

_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    ENVIRONMENT: (_environment, _set_environment),
    DIRECTORY: (_directory, _set_directory),
    THREADS: (own_threads.others, lambda _: None),
    HANDLERS: (_handlers, _set_handlers),
    "the interval timers": (_timers, _stop_timers),
    "the callbacks of the garbage collector": (lambda: list(gc.callbacks), _set_callbacks),
    "Python's trace function": (sys.gettrace, sys.settrace),
    "Python's profile function": (sys.getprofile, sys.setprofile),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "torch's matrix multiplication precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    DENORMALS: (_flushes_denormals, torch.set_flush_denormal),
    GLOBAL_HOOKS: (_global_hooks, _set_global_hooks),
    "torch's function modes": (_modes, lambda _: None),
} | {
    name: (getattr(torch._C, f"_get_{flag}"), getattr(torch._C, f"_set_{flag}"))
    for name, flag in _FLAGS.items()
    if hasattr(torch._C, f"_get_{flag}")
}
"""Name -> functions that return and set it."""
_SETTINGS |= _MORE
