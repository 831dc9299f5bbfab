"""Joining a Ray cluster that is already there, and what its calls need around them."""

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


def check(cpus: float, gpus: float) -> None:
    """Refuse what no cluster could reserve for a run, and a machine without Ray, before anything else is done.

    Raises:
        UsageError: what is wrong.
    """
    if not 0 <= cpus < float("inf"):
        raise UsageError(f"--cpus-per-run is a number of CPU cores, 0 or more; found {cpus:g}")
    if not 0 <= gpus <= 1:
        raise UsageError(f"--gpus-per-run is a share of one GPU, in [0, 1]: a run trains on one; found {gpus:g}")
    if cpus == gpus == 0:
        raise UsageError("a run must reserve something: give --cpus-per-run or --gpus-per-run a value above 0")
    package()


def package() -> Any:
    """Return Ray.

    Raises:
        UsageError: it is not installed.
    """
    # Ray asks for this when it is imported: nothing is to be reported to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--executor ray needs a package that is not installed: pip install 'pruneboard[ray]'"
        ) from None
    return ray


def connected() -> Any:
    """Return Ray, connected to the cluster that RAY_ADDRESS names, or else to the one of this machine.

    Raises:
        UsageError: there is none, or it does not let this Python or this Ray in.
        InterruptedRunError: SIGTERM came.
    """
    ray = package()
    at = address()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=at, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise UsageError(_no_cluster("found no Ray cluster")) from None
    except (ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise UsageError(f"--executor ray cannot join the cluster: {' '.join(str(error).split())}") from None
    except SystemExit:  # what Ray makes of SIGTERM
        raise InterruptedRunError("stopped by SIGTERM: run the same command again") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return ray


def address() -> str:
    """Return where the cluster is: what RAY_ADDRESS says, or `auto` for that of this machine.

    Raises:
        UsageError: it is no address, or nobody listens there, which Ray would find out after minutes.
    """
    found = os.environ.get("RAY_ADDRESS") or "auto"
    if found == "auto":
        return found
    host, colon, port = found.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or "/" in host:
        raise UsageError(f"RAY_ADDRESS={found} is not the HOST:PORT of a cluster's head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise UsageError(_no_cluster(f"nobody answers at RAY_ADDRESS={found} ({reason})")) from None
    return found


def _no_cluster(found: str) -> str:
    return f"--executor ray {found}: start one with `ray start --head`, or set RAY_ADDRESS to the HOST:PORT of its head"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until Ray has returned: within its calls an error from a handler could be lost.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
        InterruptedRunError: SIGTERM came.
    """
    with interrupts.listen_for_stop() as request:
        yield
    if request.number:
        raise interrupts.stop_error(request.number, "")


def last_line(error: BaseException) -> str:
    """Return the line in which an error of Ray says what happened; those before are a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
