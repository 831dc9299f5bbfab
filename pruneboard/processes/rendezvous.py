"""The processes of one run: how they meet, what they agree on, and how each learns why another one ended.

Hosts need not share a file system, so what only the first process sees is decided there and told to the others
(`broadcast_from_main`). To them the end of a process is a broken connection (`detect_lost_peer`), so one that fails
leaves its reason in the store where all met, and ends once they have heard it. What crosses the network is JSON, never pickle.
"""

from __future__ import annotations

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

from pruneboard.errors import InterruptedRunError, LostPeerError, PruneboardError, UsageError, rebuilt
from pruneboard.processes.world import World, thread_count, timeout

POLL_SECONDS = 0.5
"""How often a process looks for the reason of another one's failure."""

SETTLE_SECONDS = 3.0
"""How long a process that failed waits to see whether all did, as with a loss that is not finite."""

GRACE_SECONDS = 5.0
"""How long a process that failed stays for the others to hear why."""

LONGEST_REASON = 2000
"""Characters."""

_NETWORK = re.compile(r"gloo|nccl|c10d|tcpstore|socket", re.IGNORECASE)
_LOSS = re.compile(
    r"closed by (the )?peer|closed the connection|reset by peer|broken pipe|timed out|timing out|time ?out"
    r"|connection refused|unreachable|no route to host|remote process exited|communicator was aborted",
    re.IGNORECASE,
)


@dataclass
class _Meeting:
    """Where the processes met.

    Attributes:
        world: this process and how many there are.
        store: keys and values that all of them see.
        group: for what is told between CPUs; None is the default group.
        runs: how many runs began since.
        broken: whether a process was lost or failed alone, after which no other run can follow here.
    """

    world: World
    store: Store
    group: dist.ProcessGroup | None
    runs: int = 0
    broken: bool = False


_sought = False
_meeting: _Meeting | None = None
_run: _Run | None = None


def join(world: World, *, cuda: bool) -> None:
    """Start torch's process group; wait for all where there are several. Only the first call does something.

    Raises:
        InterruptedRunError: not all came in time.
        UsageError: the place to meet is none.
    """
    global _meeting  # noqa: PLW0603 - one process has one place among the others, as it has one default group
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    backend, limit = "nccl" if cuda else "gloo", timeout()
    if world.size == 1:
        if not dist.is_initialized():
            own = TCPStore("127.0.0.1", 0, 1, is_master=True)
            dist.init_process_group(backend, store=own, rank=0, world_size=1, timeout=limit)
        return
    if _meeting is not None and dist.is_initialized():
        return
    store = _meet(world, limit)
    if cuda:
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # else the loss of a peer aborts us without a word
    with detect_lost_peer():
        if not dist.is_initialized():
            inner = PrefixStore("group", store)
            dist.init_process_group(backend, store=inner, rank=world.rank, world_size=world.size, timeout=limit)
        group: Any = dist.new_group(backend="gloo", timeout=limit) if cuda else None
    _meeting = _Meeting(world, store, group)


def reset() -> None:
    """Forget where the processes met, once their process group is no more."""
    global _meeting  # noqa: PLW0603 - the same
    _meeting = None


@contextmanager
def shared_run(world: World, *, cuda: bool) -> Iterator[None]:
    """Carry out a run that all processes carry out: what stops one of them stops all, for the same reason.

    Raises:
        PruneboardError: what another process failed with, where that stopped this one.
        InterruptedRunError: a process was lost without a word.
    """
    global _run  # noqa: PLW0603 - the same
    if world.size == 1:
        yield
        return
    join(world, cuda=cuda)
    assert _meeting is not None
    if _meeting.broken:
        raise InterruptedRunError("a process was lost in the run before this one: run the same command again")
    _run = _Run(_meeting)
    try:
        yield
        with detect_lost_peer():
            dist.barrier(group=_meeting.group)  # the run is over when the first process has written its record
    except BaseException as error:
        reason = _run.end(error)
        if reason is error:
            raise
        raise reason from error
    finally:
        _run.over.set()
        _run = None


def is_broken() -> bool:
    """Return whether a process was lost or failed alone, so that no other run can follow in these processes."""
    return _meeting is not None and _meeting.broken


def broadcast_from_main(decide: Callable[[], Any]) -> Any:
    """Return on every process what `decide`, called on the first one only, returns: a value that JSON can hold."""
    if _meeting is None:
        return decide()
    told = json.dumps(decide()).encode() if _meeting.world.is_main else b""
    with detect_lost_peer():
        length = torch.tensor([len(told)])
        dist.broadcast(length, 0, group=_meeting.group)
        room = torch.frombuffer(bytearray(told or int(length)), dtype=torch.uint8)
        dist.broadcast(room, 0, group=_meeting.group)
    return json.loads(bytes(room.numpy()))


def check_same_run(content: str) -> None:
    """Refuse to begin unless `content`, a hash of what is to be done, is the same on every process.

    Raises:
        UsageError: on all of them.
    """
    if _meeting is None:
        return
    ours = torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8)
    found = [torch.empty_like(ours) for _ in range(_meeting.world.size)]
    with detect_lost_peer():
        dist.all_gather(found, ours, group=_meeting.group)
    for rank, theirs in enumerate(found):
        if not torch.equal(theirs, found[0]):
            raise UsageError(
                f"process {rank} would do another run than process 0: every host needs the same command, the same "
                "data, and the same versions of pruneboard and of the method"
            )


def root_cause(error: PruneboardError) -> PruneboardError:
    """Return why the run ended: the reason another process left, if `error` is an interruption; else `error`."""
    return _run.cause(error) if _run is not None else error


def report_early_failure(error: PruneboardError, world: World) -> None:
    """Leave `error` for the other processes if this one failed before it looked for them; do not wait long."""
    if world.size == 1 or _sought:
        return
    os.environ["PRUNEBOARD_TIMEOUT"] = str(min(60.0, timeout().total_seconds()))
    with suppress(PruneboardError), shared_run(world, cuda=False):
        raise error


def set_group_timeout(group: dist.ProcessGroup) -> None:
    """Give a process group that a library made our timeout; torch would wait half an hour."""
    # torch before 2.15 has it under this other name only.
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timeout(), group)


def limit_threads(local_size: int) -> None:
    """Take this process's share of the cores of a machine that runs `local_size` of them."""
    number = thread_count(local_size)
    if number is not None:
        torch.set_num_threads(number)


@contextmanager
def detect_lost_peer() -> Iterator[None]:
    """Name the loss of a process where a collective operation fails of it; other errors pass.

    Raises:
        LostPeerError: the connection to another process broke, or stayed silent for too long.
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


class _Run:
    """A run's place in the store, and a thread that waits there for another process's reason to fail."""

    def __init__(self, meeting: _Meeting) -> None:
        meeting.runs += 1
        self._meeting = meeting
        self._store = PrefixStore(f"run{meeting.runs}", meeting.store)
        self._reason: PruneboardError | None = None
        self._heard = threading.Event()
        self._stopped_by_others = False
        self.over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(RuntimeError, ValueError):  # the store is gone, or holds what is no reason
            while not self.over.wait(POLL_SECONDS):
                if self._store.check(["failed"]):
                    self._reason = _reason(self._store.get("failed"), self._meeting.world)
                    self._heard.set()
                    self._store.set(f"heard/{self._meeting.world.rank}", "")
                    return

    def cause(self, error: PruneboardError) -> PruneboardError:
        """See the function of that name."""
        if not isinstance(error, InterruptedRunError) or self._stopped_by_others:
            return error
        lost = isinstance(error, LostPeerError)
        if self._heard.wait(4 * POLL_SECONDS if lost else 0.0) and self._reason is not None:
            error = self._reason
        elif not lost:
            return error
        self._stopped_by_others = True
        _let_nothing_replace_the_reason()
        return error

    def end(self, error: BaseException) -> BaseException:
        """Return why the run ended; where this process ended it, tell the others."""
        if isinstance(error, PruneboardError):
            error = self.cause(error)
        self._meeting.broken = True
        if not self._stopped_by_others:
            # In a thread: a store that does not answer must not keep us.
            teller = threading.Thread(target=self._tell, args=(error,), daemon=True)
            teller.start()
            teller.join(SETTLE_SECONDS + 2 * GRACE_SECONDS)
        return error

    def _tell(self, error: BaseException) -> None:
        world = self._meeting.world
        with suppress(RuntimeError):  # the store is gone: nobody is left to be told
            self._store.compare_set("failed", "", _written(error, world.rank))
            for word in ("alone", "heard"):
                self._store.set(f"{word}/{world.rank}", "")
            if self._all("alone", SETTLE_SECONDS):
                self._meeting.broken = False  # all failed by themselves at the same point: another run can follow
            else:
                self._all("heard", GRACE_SECONDS)

    def _all(self, word: str, seconds: float) -> bool:
        """Return whether every process has written `word`, giving them `seconds`."""
        keys = [f"{word}/{rank}" for rank in range(self._meeting.world.size)]
        deadline = time.monotonic() + seconds
        while not (there := bool(self._store.check(keys))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 5)
        return there


def _written(error: BaseException, rank: int) -> str:
    kind, text = type(error).__name__, str(error)
    if isinstance(error, KeyboardInterrupt):
        kind, text = InterruptedRunError.__name__, "stopped by Ctrl-C: run the same command again"
    elif not isinstance(error, PruneboardError):
        kind, text = "RunError", f"{kind}: {text}"
    return json.dumps({"kind": kind, "message": text[:LONGEST_REASON], "rank": rank})


def _reason(told: bytes, world: World) -> PruneboardError | None:
    """Return another process's reason; None where it is our own."""
    found = json.loads(told)
    if not isinstance(found, dict) or found.get("rank") == world.rank:
        return None
    return rebuilt(str(found.get("kind")), f"process {found.get('rank')}: {found.get('message')}")


def _let_nothing_replace_the_reason() -> None:
    """Ignore SIGTERM from now on: a launcher sends it when one process has ended, and this one is about to."""
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _meet(world: World, limit: timedelta) -> Store:
    """Return the store where all processes of the run met; this process knows then which share its machine."""
    global _sought  # noqa: PLW0603 - the same
    _sought = True
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    _check_resolves(os.environ["MASTER_ADDR"])
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=limit))
        store = PrefixStore("pruneboard", store)
        hosts = _hosts(store, world, limit)
    except _ERRORS as error:
        line = str(error).splitlines()[0]
        if "EADDRINUSE" in line or "listen" in line:
            raise UsageError(f"port {place.rpartition(':')[2]} is taken here: set another MASTER_PORT") from error
        raise InterruptedRunError(
            f"process {world.rank} waited {limit.total_seconds():g} s at {place} and not all {world.size} processes "
            f"came ({line}): start all of them, and check that their hosts reach each other"
        ) from error
    local = [rank for rank, host in enumerate(hosts) if host == hosts[world.rank]]
    os.environ.setdefault("LOCAL_RANK", str(local.index(world.rank)))
    limit_threads(len(local))
    return store


def _hosts(store: Store, world: World, limit: timedelta) -> list[bytes]:
    """Return the name of each process's host, by rank."""
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
        raise UsageError(f"MASTER_ADDR={host} is no host that is known here: {error.strerror or error}") from error
