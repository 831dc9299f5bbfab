"""pruneboard: leaderboards for neural-network pruning, under identical training.

    import pruneboard
    record = pruneboard.run(pruneboard.RunSpec(method="probmask", model="resnet18", sparsity=0.9))
    board = pruneboard.compare("results")

Importing this package imports no torch: `run` loads it when it is called.
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
    """Look `__version__` up when it is asked for: what reads it off the installation is slow to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pruneboard")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def run(spec: RunSpec) -> dict[str, Any]:
    """Carry out one run and return its record; see `pruneboard.experiment.lifecycle.run`.

    Raises:
        pruneboard.errors.PruneboardError: the request is wrong, or the run failed.
    """
    from pruneboard.experiment import lifecycle

    return lifecycle.run(spec)


def compare(*results: str | Path) -> list[Board]:
    """Return the boards of one or more results folders; see `pruneboard.leaderboard`.

    Raises:
        pruneboard.errors.NotFoundError: no record is there.
    """
    from pruneboard.leaderboard import folders

    return folders.compare(results)
