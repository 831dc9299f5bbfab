"""How the processes of one run meet, exchange small values, and learn why another one failed.

How they meet: every process connects to a `TCPStore`, a small key-value server at MASTER_ADDR:MASTER_PORT. Rank 0 hosts
it (under torchrun, the agent on the first host does). Each process writes its host name there and waits, at most
`world.timeout()`, until all have done so. Then all build torch's process group over the same store: NCCL on GPUs, gloo
on CPUs. With NCCL there is also a gloo group for the values that the harness itself exchanges.

What a lost process looks like: the system closes its sockets, so a collective operation of gloo that needs it fails at
once in the other processes ("connection closed by peer"). If its host is unreachable, nothing is closed, and the
operation fails after the timeout. NCCL would by default abort the waiting process from a thread, without an exception
that could be recorded; TORCH_NCCL_BLOCKING_WAIT=1 makes the operation raise instead. In each case the error says no
more than that some peer is gone: `detect_lost_peer` turns it into a `LostPeerError`.

How the reason is sent: a process that fails by itself writes its error to the key `failed`. The first one to do so
wins. A thread in every other process polls that key, keeps what it reads, and confirms it with `heard/RANK`. The failed
process waits for these confirmations before it ends, because its end closes its connections, and on rank 0 also the
store. If instead all processes write `alone/RANK`, all of them failed at the same point (for example because the loss
is not finite); then no collective operation was left half done, and the next run can use the same group.

Everything that crosses the network is JSON, because unpickling would let anyone who can reach the port run code. Hosts
need not share a file system: what depends on files of rank 0 is decided there and broadcast (`broadcast_from_main`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from pruneboard.errors import InterruptedRunError, LostPeerError, PruneboardError, UsageError
from pruneboard.processes.failures import Failure
from pruneboard.processes.world import World, thread_count, timeout

POLL_SECONDS = 0.5
"""How often a process checks whether another one has written why it failed."""

REASON_SECONDS = 2.0
"""How long a process that noticed a loss waits for the lost one's reason."""

SETTLE_SECONDS = 3.0
"""How long a failed process waits to see whether all failed by themselves, as with a loss that is not finite."""

GRACE_SECONDS = 5.0
"""How long a failed process then waits for the others to read its reason."""

_NETWORK = re.compile(r"gloo|nccl|c10d|tcpstore|socket", re.IGNORECASE)
_LOSS = re.compile(
    r"closed by (the )?peer|closed the connection|reset by peer|broken pipe|timed out|timing out|time ?out"
    r"|connection refused|unreachable|no route to host|remote process exited|communicator was aborted",
    re.IGNORECASE,
)


@dataclass
class _Rendezvous:
    """What this process holds after the rendezvous.

    Attributes:
        world: its rank, and the number of processes.
        store: the key-value store that all processes share.
        group: the process group for tensors on CPUs; None is the default group.
        runs: number of runs started since.
        broken: whether a process was lost or failed alone, after which these processes cannot carry out another run.
    """

    world: World
    store: Store
    group: dist.ProcessGroup | None
    runs: int = 0
    broken: bool = False


# One process has one default process group in torch, so these are global too.
_attempted = False
_rendezvous: _Rendezvous | None = None
_run: _SharedRun | None = None


def join(world: World, *, cuda: bool) -> None:
    """Start torch's process group and wait until all processes have joined it. Later calls do nothing.

    Raises:
        InterruptedRunError: not all processes joined in time.
        UsageError: the rendezvous address is invalid, or these processes have joined for the other kind of device.
    """
    global _rendezvous  # noqa: PLW0603
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    backend, limit = "nccl" if cuda else "gloo", timeout()
    if world.size == 1:
        if not dist.is_initialized():
            own = TCPStore("127.0.0.1", 0, 1, is_master=True)
            dist.init_process_group(backend, store=own, rank=0, world_size=1, timeout=limit)
        return
    if _rendezvous is not None and dist.is_initialized():
        if dist.get_backend() != backend:
            raise UsageError(
                f"these {world.size} processes have started {dist.get_backend()} for an earlier run, and this run "
                f"needs {backend}: start runs on CPUs and runs on GPUs by separate commands"
            )
        return
    store = _meet(world, limit)
    if cuda:
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # see above
    with detect_lost_peer():
        if not dist.is_initialized():
            inner = PrefixStore("group", store)
            dist.init_process_group(backend, store=inner, rank=world.rank, world_size=world.size, timeout=limit)
        group: Any = dist.new_group(backend="gloo", timeout=limit) if cuda else None
    _rendezvous = _Rendezvous(world, store, group)


def reset() -> None:
    """Forget the rendezvous, after its process group was destroyed."""
    global _rendezvous  # noqa: PLW0603
    _rendezvous = None


@contextmanager
def shared_run(world: World, *, cuda: bool) -> Iterator[None]:
    """Carry out a run in which all processes take part: an error in one of them ends all, with the same reason.

    Raises:
        PruneboardError: the error of another process, if it stopped this one.
        InterruptedRunError: a process was lost and gave no reason.
    """
    global _run  # noqa: PLW0603
    if world.size == 1:
        yield
        return
    join(world, cuda=cuda)
    assert _rendezvous is not None
    if _rendezvous.broken:
        raise InterruptedRunError("a process was lost in the run before this one: run the same command again")
    _run = _SharedRun(_rendezvous)
    try:
        yield
        with detect_lost_peer():
            dist.barrier(group=_rendezvous.group)  # no process ends before rank 0 has written the record
    except BaseException as error:
        reason = _run.end(error)
        if reason is error:
            raise
        raise reason from error
    finally:
        _run.over.set()
        _run = None


def is_broken() -> bool:
    """Return whether a process was lost or failed alone, so that these processes cannot carry out another run."""
    return _rendezvous is not None and _rendezvous.broken


def broadcast_from_main(decide: Callable[[], Any]) -> Any:
    """Call `decide` on rank 0 and return its result, which must be a JSON value, on every process."""
    if _rendezvous is None:
        return decide()
    content = json.dumps(decide()).encode() if _rendezvous.world.is_main else b""
    with detect_lost_peer():
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0, group=_rendezvous.group)
        data = torch.frombuffer(bytearray(content or int(length)), dtype=torch.uint8)
        dist.broadcast(data, 0, group=_rendezvous.group)
    return json.loads(bytes(data.numpy()))


def check_same_run(digest: str, gpu: str | None = None) -> None:
    """Check that every process is about to carry out the same run, each on a GPU of its own.

    Args:
        digest: the run's hash.
        gpu: identity of this process's GPU, or None if it uses none.

    Raises:
        UsageError: the digests differ, or two processes have the same GPU; raised on every process.
    """
    if _rendezvous is None:
        return
    runs = _gathered(digest)
    for rank, other in enumerate(runs):
        if other != runs[0]:
            raise UsageError(
                f"process {rank} was given a different run than process 0: every host needs the same command, the same "
                "data, and the same versions of pruneboard and of the method"
            )
    gpus = _gathered(gpu or "")
    for rank, other in enumerate(gpus):
        if other != _hashed("") and gpus.index(other) < rank:
            raise UsageError(
                f"processes {gpus.index(other)} and {rank} use the same GPU, and each process needs its own: start one "
                "process per GPU"
            )


def _gathered(text: str) -> list[bytes]:
    """Return, by rank, the hash of every process's text."""
    assert _rendezvous is not None
    own = torch.frombuffer(bytearray(_hashed(text)), dtype=torch.uint8)
    found = [torch.empty_like(own) for _ in range(_rendezvous.world.size)]
    with detect_lost_peer():
        dist.all_gather(found, own, group=_rendezvous.group)
    return [bytes(other.numpy()) for other in found]


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def root_cause(error: PruneboardError) -> PruneboardError:
    """Return why the run ended: another process's error if `error` only follows from it, else `error`."""
    return _run.root_cause(error) if _run is not None else error


def report_early_failure(error: PruneboardError, world: World) -> None:
    """Send `error` to the other processes if this one failed before the rendezvous; wait for them at most a minute."""
    if world.size == 1 or _attempted:
        return
    os.environ["PRUNEBOARD_TIMEOUT"] = str(min(60.0, timeout().total_seconds()))
    with suppress(PruneboardError), shared_run(world, cuda=False):
        raise error


def set_group_timeout(group: dist.ProcessGroup) -> None:
    """Give a process group that a library created our timeout; torch's default is half an hour."""
    # torch before 2.15 has it under this other name only.
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timeout(), group)


def limit_threads(local_size: int) -> None:
    """Let torch use this process's share of a machine's cores, which `local_size` processes divide."""
    number = thread_count(local_size)
    if number is not None:
        torch.set_num_threads(number)


@contextmanager
def detect_lost_peer() -> Iterator[None]:
    """Turn the error of a collective operation that lost a peer into a `LostPeerError`; other errors pass unchanged.

    Raises:
        LostPeerError: the connection to another process broke, or no data arrived before the timeout.
    """
    try:
        yield
    except RuntimeError as error:
        found = _LOSS.search(str(error))
        if found is None or not (isinstance(error, _ERRORS) or _NETWORK.search(str(error))):
            raise
        raise LostPeerError(
            f"a process was lost, as process {World.current().rank} noticed ({found[0].lower()}): "
            "run the same command again"
        ) from error


_ERRORS = (dist.DistNetworkError, dist.DistStoreError)


class _SharedRun:
    """One run's keys in the store, and a thread that waits there for another process's failure."""

    def __init__(self, rendezvous: _Rendezvous) -> None:
        rendezvous.runs += 1
        self._rendezvous = rendezvous
        self._store = PrefixStore(f"run{rendezvous.runs}", rendezvous.store)
        self._reason: PruneboardError | None = None
        self._heard = threading.Event()
        self._ended_by_another = False
        self.over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(RuntimeError, ValueError, TypeError, LookupError):  # the store is gone, or its value is invalid
            while not self.over.wait(POLL_SECONDS):
                if self._store.check(["failed"]):
                    failure = Failure.from_json(self._store.get("failed"))
                    if failure.rank != self._rendezvous.world.rank:
                        self._reason = failure.error(f"process {failure.rank}: ")
                    self._heard.set()
                    self._store.set(f"heard/{self._rendezvous.world.rank}", "")
                    return

    def root_cause(self, error: PruneboardError) -> PruneboardError:
        """See the function of that name.

        Only an interruption can follow from another process's failure: a lost connection, or the SIGTERM that a
        launcher sends to the remaining processes. After a lost connection, the reason may not have arrived yet.
        """
        if not isinstance(error, InterruptedRunError) or self._ended_by_another:
            return error
        lost = isinstance(error, LostPeerError)
        if self._heard.wait(REASON_SECONDS if lost else 0.0) and self._reason is not None:
            error = self._reason
        elif not lost:
            return error
        self._ended_by_another = True
        _ignore_sigterm()
        return error

    def end(self, error: BaseException) -> BaseException:
        """Return why the run ended; if this process failed by itself, first send its error to the others."""
        if isinstance(error, PruneboardError):
            error = self.root_cause(error)
        self._rendezvous.broken = True
        if not self._ended_by_another:
            # In a thread, because a store that does not answer would block this process.
            sender = threading.Thread(target=self._send, args=(error,), daemon=True)
            sender.start()
            sender.join(SETTLE_SECONDS + 2 * GRACE_SECONDS)
        return error

    def _send(self, error: BaseException) -> None:
        rank = self._rendezvous.world.rank
        with suppress(RuntimeError):  # the store is gone: no process is left to read the reason
            self._store.compare_set("failed", "", Failure.of(error, rank).to_json())
            for key in ("alone", "heard"):
                self._store.set(f"{key}/{rank}", "")
            if self._all_wrote("alone", SETTLE_SECONDS):
                self._rendezvous.broken = False
            else:
                self._all_wrote("heard", GRACE_SECONDS)

    def _all_wrote(self, key: str, seconds: float) -> bool:
        """Wait at most `seconds` until every process has written `key`; return whether all have."""
        keys = [f"{key}/{rank}" for rank in range(self._rendezvous.world.size)]
        deadline = time.monotonic() + seconds
        while not (written := bool(self._store.check(keys))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 5)
        return written


def _ignore_sigterm() -> None:
    """Keep the reason: a launcher sends SIGTERM when one process has ended, and this one is about to end too."""
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _meet(world: World, limit: timedelta) -> Store:
    """Return the store once all processes have connected to it, and use this process's share of its host's cores."""
    global _attempted  # noqa: PLW0603
    _attempted = True
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    _check_resolves(address)
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=limit))
        store = PrefixStore("pruneboard", store)
        hosts = _host_names(store, world, limit)
    except _ERRORS as error:
        line = str(error).splitlines()[0]
        if "EADDRINUSE" in line or "listen" in line:
            raise UsageError(f"port {port} is in use on this host: set another MASTER_PORT") from error
        raise InterruptedRunError(
            f"process {world.rank} waited {limit.total_seconds():g} s at {address}:{port}, but not all {world.size} "
            f"processes connected ({line}): start all of them, and check that their hosts reach each other"
        ) from error
    local = [rank for rank, host in enumerate(hosts) if host == hosts[world.rank]]
    os.environ.setdefault("LOCAL_RANK", str(local.index(world.rank)))
    limit_threads(len(local))
    return store


def _host_names(store: Store, world: World, limit: timedelta) -> list[bytes]:
    """Return the host name of each process, by rank, once all have written theirs."""
    keys = [f"host/{rank}" for rank in range(world.size)]
    store.set(keys[world.rank], socket.gethostname())
    try:
        store.wait(keys, limit)
    except _ERRORS as error:
        missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        raise dist.DistStoreError(f"missing: process {', '.join(missing)}") from error
    return [store.get(key) for key in keys]


def _check_resolves(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UsageError(f"MASTER_ADDR={host} cannot be resolved on this host: {error.strerror or error}") from error
