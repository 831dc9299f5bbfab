"""Connect to an existing Ray cluster, and handle the signals and errors of Ray calls."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pruneboard.errors import InterruptedRunError, UsageError, why
from pruneboard.processes import interrupts

CONNECT_SECONDS = 10.0


def check_reservation(cpus: float, gpus: float) -> None:
    """Check the resources to reserve for each run, and that Ray is installed.

    Raises:
        UsageError: no cluster could reserve these resources, or Ray is not installed.
    """
    if not 0 <= cpus < float("inf"):
        raise UsageError(f"--cpus-per-run must be a number of CPU cores, 0 or more; found {cpus:g}")
    if not 0 <= gpus <= 1:
        raise UsageError(f"--gpus-per-run must be in [0, 1], because a run trains on one GPU; found {gpus:g}")
    if cpus == gpus == 0:
        raise UsageError("a run must reserve something: set --cpus-per-run or --gpus-per-run to a value above 0")
    import_ray()


def import_ray() -> Any:
    """Import and return Ray.

    Raises:
        UsageError: Ray is not installed.
    """
    # Ray reads this variable when it is imported. Usage reports are off unless the user has turned them on.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--executor ray needs a package that is not installed: pip install 'pruneboard[ray]'"
        ) from None
    return ray


def connect() -> Any:
    """Connect to the cluster named by RAY_ADDRESS, or else to the one of this machine, and return Ray.

    Raises:
        UsageError: there is no cluster, or it rejects this version of Python or Ray.
        InterruptedRunError: SIGTERM arrived.
    """
    ray = import_ray()
    address = cluster_address()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise UsageError(_no_cluster("found no Ray cluster")) from None
    except (ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise UsageError(f"--executor ray cannot join the cluster: {' '.join(str(error).split())}") from None
    except SystemExit:  # raised by Ray's own handler of SIGTERM
        raise InterruptedRunError("stopped by SIGTERM: run the same command again") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # `ray.init` replaces it
    return ray


def cluster_address() -> str:
    """Return the value of RAY_ADDRESS, or `auto` for the cluster of this machine.

    Raises:
        UsageError: the value is not HOST:PORT, or nothing accepts connections there. Ray itself would report this only
            after minutes.
    """
    address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or "/" in host:
        raise UsageError(f"RAY_ADDRESS={address} is not the HOST:PORT of a cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise UsageError(_no_cluster(f"cannot connect to RAY_ADDRESS={address} ({reason})")) from None
    return address


def _no_cluster(problem: str) -> str:
    return f"--executor ray {problem}: run `ray start --head`, or set RAY_ADDRESS to the HOST:PORT of a cluster's head"


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the end of the block: Ray may swallow an exception that a handler raises in it.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed during the block.
        InterruptedRunError: SIGTERM arrived during the block.
    """
    with interrupts.listen_for_stop() as request:
        yield
    if request.number:
        raise interrupts.stop_error(request.number, "")


def last_line(error: BaseException) -> str:
    """Return the last line of a Ray error, which states the cause; the lines before it are a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
