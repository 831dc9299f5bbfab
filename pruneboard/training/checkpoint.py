"""What an unfinished run goes on from: everything that decides the rest of it, in one safetensors file.

In it are every parameter and buffer in full, the optimizer's tensors per parameter whatever the ZeRO stage, the
running statistics of each process, the masks of the last epoch's end, and in the header how far the run has come.
So a run may go on with another number of processes and at another stage. No random state is in it: draws are keyed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruneboard.errors import RunError, UsageError
from pruneboard.processes import rendezvous
from pruneboard.records import runfolder
from pruneboard.training.engine import Engine
from pruneboard.training.evaluate import statistics
from pruneboard.training.mask_stats import MaskTracker

SCHEMA = 1
HEADING = "pruneboard"
"""The one key of the file's header that is ours."""

logger = logging.getLogger("pruneboard")


@dataclass
class TrainState:
    """How far a run has come: what a checkpoint holds besides tensors.

    Attributes:
        step: optimizer steps done.
        epoch_steps: those of them in the epoch that is not closed yet.
        epoch_loss: sum of their losses, averaged over processes.
        best_validation: the best epoch's validation top-1, and which it was.
        scoring_passes: images passed through the network by a `ScoringPruner`.
        gates_sha256: of the gates once their masks are final.
        hook_seconds: spent in the method's hooks.
        seconds: spent altogether, in earlier attempts.
        attempts: when each one started, at which step, and on what.
    """

    step: int = 0
    epoch_steps: int = 0
    epoch_loss: float = 0.0
    best_validation: dict[str, Any] = field(default_factory=dict)
    scoring_passes: int = 0
    gates_sha256: str | None = None
    hook_seconds: float = 0.0
    seconds: float = 0.0
    attempts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpointer:
    """Saves a run in its folder and finds it there again.

    Attributes:
        folder: the run's.
        every: steps between checkpoints, besides those at the ends of epochs; 0 is never.
        identity: what must be the same for a run to go on (`identity`).
    """

    folder: Path
    every: int
    identity: Mapping[str, str]

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after `step` steps."""
        return bool(self.every) and step % self.every == 0

    def check(self) -> None:
        """Refuse to go on with a run that something else began.

        Raises:
            UsageError: the versions or the code differ, or no checkpoint can be read.
        """
        found = self._newest()
        for name, was in (found[1]["identity"] if found else {}).items():
            now = self.identity.get(name, "none")
            if was != now:
                raise UsageError(
                    f"the run in {self.folder} was begun with {name} {was}, and this is {now}: "
                    "go on with what it was begun with, or start again with --force"
                )

    def save(self, engine: Engine, watch: MaskTracker, state: TrainState) -> None:
        """Write a checkpoint. Collective; the first process writes.

        Raises:
            StoreError: the disk refuses; the checkpoints before are still there.
        """
        tensors = {}
        for name, tensor in _gathered(engine, watch):
            if engine.rank == 0:
                tensors[name] = tensor.cpu().contiguous()
        if engine.rank:
            return
        heading = {"schema": SCHEMA, "identity": dict(self.identity), "state": dataclasses.asdict(state)}

        def write(part: Path) -> None:
            try:
                save_file(tensors, part, {HEADING: json.dumps(heading)})
            except SafetensorError as error:
                raise OSError(str(error)) from None

        runfolder.add_checkpoint(self.folder, state.step, write)

    def restore(self, engine: Engine, watch: MaskTracker) -> TrainState | None:
        """Put the newest checkpoint back, and return how far it had come; None where there is none.

        Collective: the first process reads, the others are told, so hosts need not share a file system.
        """
        found = self._newest() if engine.rank == 0 else None
        heading = rendezvous.agree(lambda: found and found[1])
        if heading is None:
            return None
        _put_back(engine, watch, load_file(found[0]) if found else {})
        if engine.rank == 0:
            runfolder.cut_metrics(self.folder, heading["state"]["step"])
        return TrainState(**heading["state"])

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that can be read, and its heading."""
        paths = runfolder.checkpoints(self.folder)
        for path in paths:
            heading = _heading(path)
            if heading is not None:
                return path, heading
        if paths:
            raise UsageError(f"no checkpoint in {paths[0].parent} can be read: --force starts again")
        return None


def _heading(path: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says of itself; None, and a warning in the log, where it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            heading = json.loads((file.metadata() or {}).get(HEADING, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        heading = error
    if isinstance(heading, dict) and heading.get("schema") == SCHEMA:
        return heading
    logger.warning("checkpoint %s cannot be read: %s", path.name, heading)
    return None


def _gathered(engine: Engine, watch: MaskTracker) -> Iterator[tuple[str, Tensor]]:
    """Yield everything there is to save, by name; collective where processes hold parts."""
    for name, tensor in _network(engine.model).items():
        yield f"network/{name}", tensor.detach()
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            for key, value in engine.optimizer_state(tensor).items():
                yield f"optimizer/{key}/{name}", value
    for index, buffer in enumerate(_running(engine.model)):
        yield f"statistics/{index}", engine.gather(buffer)
    for index, mask in enumerate(watch.before or ()):
        yield f"masks/{index}", mask.to(torch.uint8)


def _put_back(engine: Engine, watch: MaskTracker, saved: Mapping[str, Tensor]) -> None:
    """Write every tensor where it belongs; `saved` is the first process's."""
    network, running = _network(engine.model), list(_running(engine.model))
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    masks: dict[int, Tensor] = {}
    for path, value in _distributed(engine, saved):
        kind, _, name = path.partition("/")
        if kind == "network":
            _write(engine, network.pop(name, None), value, path)
        elif kind == "optimizer":
            slot, _, name = name.partition("/")
            states[name][slot] = value
        elif kind == "statistics":
            own = value[engine.rank] if len(value) == engine.world else value.mean(0)
            _write(engine, running[int(name)], own, path)
        elif kind == "masks":
            masks[int(name)] = value.bool()
    if network:
        raise RunError(f"the checkpoint lacks {next(iter(network))}: --force starts again")
    parameters = dict(engine.model.named_parameters())
    for name, state in states.items():
        engine.load_optimizer_state(parameters[name], state)
    engine.model.load_state_dict(engine.model.state_dict())  # gates may follow what is loaded, by torch's hook
    watch.before = [masks[index] for index in sorted(masks)] or None


def _distributed(engine: Engine, saved: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the first process's tensors, by name and on the device, on every process."""
    layout = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in saved.items()}
    for name, (dtype, shape) in rendezvous.agree(lambda: layout).items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype))
        yield name, engine.broadcast(saved.get(name, empty).to(engine.device))


@torch.no_grad()
def _write(engine: Engine, target: Tensor | None, value: Tensor, name: str) -> None:
    if target is None or target.shape != value.shape:
        raise RunError(f"the checkpoint's {name} fits nothing in this network: --force starts again")
    if isinstance(target, nn.Parameter):
        engine.assign(target, value)
    else:
        target.copy_(value)


def _network(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer that a state holds, a shared one once."""
    first = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if first[id(tensor)] == name}


def _running(model: nn.Module) -> Iterator[Tensor]:
    for module in statistics(model):
        yield from (buffer for buffer in (module.running_mean, module.running_var) if buffer is not None)
