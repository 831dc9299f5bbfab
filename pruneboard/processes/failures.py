"""The reason why a process of a run ended, in the form in which processes send it to each other.

It is sent through one of two channels. Under `--procs` a child sends it through its pipe to the process that started it
(`pruneboard.processes.launch`). That pipe exists before torch is imported, and it closes if the child is killed. Under
a launcher none of our processes is the parent of the others, so it goes through the rendezvous store
(`pruneboard.processes.rendezvous`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from pruneboard.errors import InterruptedRunError, LostPeerError, PruneboardError, RunError, rebuilt

MAX_MESSAGE = 2000
"""Characters of a message that are sent through the store."""

_ORDER = {InterruptedRunError.__name__: 0, LostPeerError.__name__: 2}


@dataclass(frozen=True)
class Failure:
    """Why one process ended.

    Attributes:
        rank: the process.
        kind: name of the error's class in `pruneboard.errors`.
        message: text of the error.
    """

    rank: int
    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """Describe `error`, which ended process `rank`; an error of another library counts as a `RunError`."""
        kind, message = type(error).__name__, str(error)
        if isinstance(error, KeyboardInterrupt):
            kind, message = InterruptedRunError.__name__, "stopped by Ctrl-C: run the same command again"
        elif not isinstance(error, PruneboardError):
            kind, message = RunError.__name__, f"{kind}: {message}"
        return cls(rank, kind, message)

    @property
    def only_noticed(self) -> bool:
        """Whether the process knows no more than that another one is lost."""
        return self.kind == LostPeerError.__name__

    def error(self, prefix: str = "") -> PruneboardError:
        """Return the error, with `prefix` before its message."""
        return rebuilt(self.kind, prefix + self.message)

    def to_json(self) -> str:
        """Return the JSON form, with at most `MAX_MESSAGE` characters of the message."""
        return json.dumps(asdict(replace(self, message=self.message[:MAX_MESSAGE])))

    @classmethod
    def from_json(cls, text: bytes) -> Failure:
        """Read the JSON form.

        Raises:
            ValueError, TypeError, LookupError: `text` is not one.
        """
        found = json.loads(text)
        return cls(int(found["rank"]), str(found["kind"]), str(found["message"]))


def root_cause(failures: Iterable[Failure]) -> Failure:
    """Return the failure that caused the others.

    A process that was killed or stopped comes first, because the others fail as a consequence, with errors of any kind.
    Next comes a process that failed by itself. Last come those that only noticed the loss of another process.
    """
    return min(failures, key=lambda failure: _ORDER.get(failure.kind, 1))
