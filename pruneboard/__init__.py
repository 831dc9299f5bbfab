"""pruneboard: leaderboards of neural-network pruning methods, all trained in the same way.

    import pruneboard
    record = pruneboard.run(pruneboard.RunSpec(method="probmask", model="resnet18", sparsity=0.9))
    board = pruneboard.compare("results")

Importing this package does not import torch; `run` does so when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pruneboard.spec import Recipe, RunSpec

if TYPE_CHECKING:
    from pathlib import Path

    from pruneboard.leaderboard import Board

    __version__: str

__all__ = ["Recipe", "RunSpec", "__version__", "compare", "run"]


def __getattr__(name: str) -> str:
    """Compute `__version__` on first use, because `importlib.metadata` is slow to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pruneboard")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def run(spec: RunSpec) -> dict[str, Any]:
    """Execute one run, write its record, and return it; see `pruneboard.experiment.lifecycle.run`.

    A run that has a finished record is not repeated, unless `spec.force` is set.

    Args:
        spec: method, model, data and settings.

    Returns:
        The record, which is the content of the run's `run.json`.

    Raises:
        pruneboard.errors.UsageError: the request is wrong; nothing was written.
        pruneboard.errors.RunError: the run failed; its record says why.
        pruneboard.errors.InterruptedRunError: the run was interrupted; the same call resumes it.
    """
    from pruneboard.experiment import lifecycle

    return lifecycle.run(spec)


def compare(*results: str | Path) -> list[Board]:
    """Return the boards of one or more results folders; see `pruneboard.leaderboard`.

    Args:
        results: results folders, run folders or `run.json` files.

    Raises:
        pruneboard.errors.NotFoundError: a path does not exist, or there is no record below it.
    """
    from pruneboard.leaderboard import folders

    return folders.compare(results)
