"""torch.compile for the training passes of the network (`--compile`). Gates and evaluation are not compiled.

The network is compiled as a function of its effective weights (`gates.cached_weights`). So a gate may run any Python
code, and nothing is recompiled when masks, steps or learning rates change. Evaluation and the re-estimation of
statistics are not compiled, because they are a small part of a run, have several batch sizes, and decide on masks.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import Any, cast

import torch
from torch import Tensor, hub, nn

from pruneboard.errors import RunError, UsageError

COMPILE_OPTIONS: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}
"""Arguments of torch.compile. `fallback_random` draws dropout from torch's own generator, as without `--compile`."""

_COMPILER_MODULES = ("torch._dynamo", "torch._inductor")


class CompiledNetwork(nn.Module):
    """The network that the engine calls: compiled if gradients are enabled, else the plain one."""

    def __init__(self, network: nn.Module, name: str) -> None:
        """Wrap `network`, which itself stays uncompiled.

        Args:
            network: the network; it is compiled at its first training pass.
            name: its name in error messages.
        """
        super().__init__()
        # torch shows a progress bar while it compiles, for which tqdm creates a semaphore. Python would report it as
        # leaked, because processes end without cleanup (`processes.process_exit`); a thread lock is sufficient.
        cast("Any", hub).tqdm.set_lock(threading.RLock())
        torch.compiler.reset()  # graphs of earlier runs in this process count towards torch's limit
        self.network = network
        self._name = name
        compiled: Any = torch.compile(network, fullgraph=True, dynamic=False, **COMPILE_OPTIONS)
        self._compiled = compiled.__call__  # as a submodule it would register all parameters twice

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits.

        Raises:
            RunError: torch cannot compile the network.
        """
        if not torch.is_grad_enabled():
            return self.network(images)  # type: ignore[no-any-return]
        try:
            return self._compiled(images)  # type: ignore[no-any-return]
        except Exception as error:
            if not type(error).__module__.startswith(_COMPILER_MODULES):
                raise
            raise RunError(f"torch.compile fails on {self._name}: leave --compile out ({_reason(error)})") from error

    def close(self) -> None:
        """Drop all compiled graphs of this process; other networks are compiled again when they are called."""
        torch.compiler.reset()


def _reason(error: Exception) -> str:
    """Return the class of the error and the first non-empty line; torch wraps the errors of its backends."""
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return ": ".join([type(cause).__name__, *lines[:1]])


def check_compiler(device: torch.device) -> None:
    """Check that torch can compile for `device`.

    Raises:
        UsageError: torch.compile does not support this Python version, or a C++ compiler or triton is missing.
    """
    try:
        torch.compile(nn.Identity())
    except RuntimeError as error:
        raise UsageError(f"--compile does not work here: {str(error).splitlines()[0]}: leave it out") from None
    if device.type == "cpu" and not _finds_cpp_compiler():
        raise UsageError(
            "--compile needs a C++ compiler, and torch finds none that runs: install g++, name one in the "
            "environment variable CXX, or leave --compile out"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("--compile needs the package triton on a GPU: pip install triton, or leave --compile out")


def _finds_cpp_compiler() -> bool:
    from torch._inductor import cpp_builder  # torch has no public name for it

    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError:
        return False
    return True
