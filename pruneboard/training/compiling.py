"""`--compile`: torch.compile for the training passes of the network. Gates are never compiled, nor is evaluation.

What is compiled is the network as a function of its effective weights (`gates.computed`), so that a method
may do in its gates whatever Python can, and nothing is compiled anew when masks, steps or learning rates change.
Evaluation and the re-estimation of statistics run as they do without: they are a small part of a run, have batches
of several sizes, and decide on masks.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import Any, cast

import torch
from torch import Tensor, hub, nn

from pruneboard.errors import RunError, UsageError

HOW: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}
"""The compiler, told to draw dropout from torch's generator: the same units are dropped as without `--compile`."""

_OF_THE_COMPILER = ("torch._dynamo", "torch._inductor")


class Compiled(nn.Module):
    """The network as the engine calls it: compiled where gradients are wanted, as it is where they are not."""

    def __init__(self, network: nn.Module, name: str) -> None:
        """Stand for `network`, which stays uncompiled for all who call it itself.

        Args:
            network: what to compile, at its first training pass.
            name: what errors call it.
        """
        super().__init__()
        # While torch compiles it makes a bar, and tqdm a semaphore for it, of which Python would complain where a
        # started process ends at once (`leaving`): a lock of threads will do.
        cast("Any", hub).tqdm.set_lock(threading.RLock())
        torch.compiler.reset()  # graphs of earlier runs in this process would count towards the limit of ours
        self.network = network
        self._name = name
        compiled: Any = torch.compile(network, fullgraph=True, dynamic=False, **HOW)
        self._compiled = compiled.__call__  # as a module it would be registered with all parameters once more

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits.

        Raises:
            RunError: the compiler cannot do it.
        """
        if not torch.is_grad_enabled():
            return self.network(images)  # type: ignore[no-any-return]
        try:
            return self._compiled(images)  # type: ignore[no-any-return]
        except Exception as error:
            if not type(error).__module__.startswith(_OF_THE_COMPILER):
                raise
            raise RunError(f"torch.compile fails on {self._name}: leave --compile out ({_reason(error)})") from error

    def close(self) -> None:
        """Drop all compiled graphs of this process: those of others are compiled again when they are called."""
        torch.compiler.reset()


def _reason(error: Exception) -> str:
    """Return the error's kind and the first line that says something; a backend's own error is wrapped in one."""
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return ": ".join([type(cause).__name__, *lines[:1]])


def check(device: torch.device) -> None:
    """Look for what compiling for `device` needs.

    Raises:
        UsageError: this Python is not one that torch compiles, or the compiler behind it is missing.
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
