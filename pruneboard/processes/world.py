"""This process's rank and the number of processes, which its launcher puts into the environment.

torchrun, the `deepspeed` launcher and `--procs` set RANK and WORLD_SIZE. `srun` sets variables of its own. They are
used only in a job step of several tasks: the script that sbatch runs and the shell of salloc also see how many tasks
the job may have, but each of them is a single process.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from datetime import timedelta

from pruneboard.errors import UsageError

TIMEOUT_SECONDS = 600.0
"""How long a process waits for the others before it considers one of them lost.

It is longer than anything that one process does while the others wait: reading data, compiling for a minute, writing a
checkpoint. A closed connection is noticed at once; the timeout is for hosts that stop responding (a cut cable, a power
failure).
"""

FIRST_PORT, PORTS = 12000, 20000
"""Range of the rendezvous ports of SLURM jobs, below the ports that the system assigns by itself."""


@dataclass(frozen=True)
class World:
    """The rank of this process and the number of processes of the run."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> World:
        """Read the environment; without a launcher's variables, return the world of a single process.

        Raises:
            UsageError: a variable is missing or invalid.
        """
        _adopt_slurm_step()
        size, rank, _ = (_number(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        if rank is None and size in (None, 1):
            return cls(0, 1)
        if rank is None or size is None:
            there, missing = ("RANK", "WORLD_SIZE") if size is None else ("WORLD_SIZE", "RANK")
            raise UsageError(
                f"{there} is set and {missing} is not: a launcher sets both for every process; "
                f"without one, unset {there}"
            )
        if not 0 <= rank < size:
            raise UsageError(f"RANK={rank} is not one of WORLD_SIZE={size} processes: ranks count from 0")
        if size > 1:
            _check_rendezvous_address(size)
        return cls(rank, size)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and reports."""
        return self.rank == 0


def timeout() -> timedelta:
    """Return how long processes wait for each other: PRUNEBOARD_TIMEOUT in seconds, or `TIMEOUT_SECONDS`.

    Raises:
        UsageError: the variable is not a positive number.
    """
    text = os.environ.get("PRUNEBOARD_TIMEOUT", str(TIMEOUT_SECONDS))
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) or not float(text):
        raise UsageError(f"PRUNEBOARD_TIMEOUT={text} is not a number of seconds above 0")
    return timedelta(seconds=float(text))


def thread_count(local_size: int) -> int | None:
    """Return the threads for each of `local_size` processes on this machine; None if OMP_NUM_THREADS sets them.

    By default every process would use all cores, and they would slow each other down.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return None
    own = _number("SLURM_CPUS_PER_TASK")
    if own and _number("SLURM_STEP_NUM_TASKS") == _number("WORLD_SIZE"):  # srun bound each process to its own cores
        return own
    return max(1, len(os.sched_getaffinity(0)) // local_size)


def free_port() -> int:
    """Return a TCP port that was free a moment ago on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def local_environments(size: int) -> list[dict[str, str]]:
    """Return, by rank, the environment variables of `size` processes that meet on this machine."""
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list, for example `node003` for `node[003-005,9],gpu1`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "")


def _adopt_slurm_step() -> None:
    """Set the usual variables, unless they are set already, from those of `srun`."""
    size, rank = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_PROCID")
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ or rank is None or size is None or size < 2:
        return
    job, step = _number("SLURM_JOB_ID") or 0, _number("SLURM_STEP_ID") or 0
    alone = _number("SLURM_STEP_NUM_NODES") == 1
    found = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID"),
        "MASTER_ADDR": "127.0.0.1" if alone else first_host(os.environ.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": FIRST_PORT + (64 * job + step) % PORTS,
    }
    for name, value in found.items():
        if value not in (None, ""):
            os.environ.setdefault(name, str(value))


def _check_rendezvous_address(size: int) -> None:
    if not os.environ.get("MASTER_ADDR"):
        raise UsageError(
            f"MASTER_ADDR is not set: give all {size} processes the address of the host where RANK=0 runs, "
            "127.0.0.1 if that is the only one"
        )
    if not 0 < (_number("MASTER_PORT") or 0) < 2**16:
        raise UsageError(
            f"MASTER_PORT is {os.environ.get('MASTER_PORT', 'not set')}: "
            f"give all {size} processes the same port, 1 to 65535, that is free where RANK=0 runs"
        )


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name}={text} is not a whole number: a launcher sets it; without one, unset it")
    return int(text)
