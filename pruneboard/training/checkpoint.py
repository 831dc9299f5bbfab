"""Save and restore an unfinished run. A checkpoint is one safetensors file with all that decides the rest of the run.

| tensors | content |
|---|---|
| `network/<name>` | every parameter and buffer of the gated network, whole |
| `optimizer/<state>/<name>` | the optimizer's tensors of each parameter, whole, at every ZeRO stage |
| `statistics/<i>` | the running statistics of batch normalization of every process, [processes, channels] |
| `masks/<i>` | the kept positions at the end of the last epoch |

The header has the `TrainState` and the identity of the run. There is no random state, because draws are keyed on the
seed and their place in the run (`gates.DrawKey`, `loop._forward_backward`), and loading needs no pickle. A file with a
damaged byte is not used (`checkpoint_file`); the run resumes from the one before.

A run may be resumed with another number of processes or at another ZeRO stage. Only the running statistics depend on
the number of processes, and are averaged if it has changed. `Engine` gathers optimizer tensors from the partitions to
save them, and scatters them to the partitions of the new layout to restore them. Images are ordered and augmented by
their position in the global batch, and gates draw the same numbers on every process, so the new processes compute the
same steps, up to the order in which sums are rounded. (Dropout is keyed on the micro-batch, so its draws also change
where the micro-batch does: in networks without batch normalization.)
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneboard.errors import RunError, UsageError, printable
from pruneboard.processes import rendezvous
from pruneboard.records import runfolder
from pruneboard.training import checkpoint_file
from pruneboard.training.checkpoint_file import DamagedError
from pruneboard.training.engine import Engine
from pruneboard.training.evaluate import batch_norms
from pruneboard.training.mask_stats import MaskTracker

logger = logging.getLogger("pruneboard")


@dataclass
class TrainState:
    """The progress of a run: what a checkpoint contains besides tensors.

    Attributes:
        step: optimizer steps done.
        epoch_steps: optimizer steps done in the current epoch.
        epoch_loss: sum of the losses of these steps, averaged over processes.
        best_validation: number and validation top-1 of the best epoch.
        scoring_passes: images passed through the network by a `ScoringPruner`.
        validations: calls of `validate` in `harden`.
        validation_passes: images passed through the network by these calls, forward only.
        gates_sha256: hash of the gates after hardening; None before.
        hook_seconds: seconds spent in the method's hooks.
        seconds: total seconds of earlier attempts.
        attempts: start time, first step, number of processes, ZeRO stage and device of each attempt.
    """

    step: int = 0
    epoch_steps: int = 0
    epoch_loss: float = 0.0
    best_validation: dict[str, Any] = field(default_factory=dict)
    scoring_passes: int = 0
    validations: int = 0
    validation_passes: int = 0
    gates_sha256: str | None = None
    hook_seconds: float = 0.0
    seconds: float = 0.0
    attempts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpointer:
    """Saves checkpoints in the folder of a run, and restores the newest that is not damaged.

    Attributes:
        folder: folder of the run.
        every: steps between checkpoints, in addition to those at the end of each epoch; 0 for none.
        identity: names and values that must be unchanged for a checkpoint to be resumed.
    """

    folder: Path
    every: int
    identity: Mapping[str, str]

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step` steps."""
        return bool(self.every) and step % self.every == 0

    def check_resumable(self) -> None:
        """Check that the newest checkpoint, if there is one, was saved by the same run under the same code.

        Raises:
            UsageError: the content hash, versions or code differ, or every checkpoint is damaged.
        """
        found = self._newest()
        was = found.identity if found else self.identity
        for name in {**self.identity, **was}:
            before, now = was.get(name, "none"), self.identity.get(name, "none")
            if before != now:
                raise UsageError(
                    f"the run in {self.folder} was started with {name} {before}, and it is now {now}: "
                    "resume it under the old one, or start again with --force"
                )

    def save(self, engine: Engine, mask_tracker: MaskTracker, state: TrainState) -> None:
        """Write a checkpoint. Collective; only rank 0 writes.

        Raises:
            StoreError: the file cannot be written; earlier checkpoints are still there.
        """
        tensors = {}
        for name, tensor in _tensors_to_save(engine, mask_tracker):
            if engine.rank == 0:
                tensors[name] = tensor.cpu().contiguous()
        if engine.rank:
            return
        header = {"identity": dict(self.identity), "state": dataclasses.asdict(state)}
        runfolder.add_checkpoint(self.folder, state.step, lambda part: checkpoint_file.write(part, header, tensors))

    def restore(self, engine: Engine, mask_tracker: MaskTracker) -> TrainState | None:
        """Restore the newest checkpoint that is not damaged and return its state; None if there is none.

        Collective: rank 0 reads the file and broadcasts it, so hosts need not share a file system.
        """
        found = self._newest() if engine.rank == 0 else None
        state = rendezvous.broadcast_from_main(lambda: found and dataclasses.asdict(found.state))
        if state is None:
            return None
        _load_tensors(engine, mask_tracker, found.tensors if found else {})
        if engine.rank == 0:
            runfolder.truncate_metrics(self.folder, state["step"])
        return TrainState(**state)

    def _newest(self) -> _Checkpoint | None:
        """Return the newest checkpoint that is not damaged; None if there is no checkpoint."""
        paths = runfolder.checkpoints(self.folder)
        found = next(filter(None, map(_read_or_warn, paths)), None)
        if paths and found is None:
            raise UsageError(f"no checkpoint in {paths[0].parent} can be read: start again with --force")
        return found


@dataclass(frozen=True)
class _Checkpoint:
    """The content of a checkpoint."""

    identity: Mapping[str, str]
    state: TrainState
    tensors: Mapping[str, Tensor]


def _read_or_warn(path: Path) -> _Checkpoint | None:
    """Return the content of a checkpoint; if it is damaged, log a warning and return None."""
    try:
        return _read(path)
    except DamagedError as error:
        logger.warning("checkpoint %s is damaged and is not used: %s", path.name, error)
        return None


def _read(path: Path) -> _Checkpoint:
    """Return the content of a checkpoint.

    Raises:
        DamagedError: it cannot be read, a checksum is wrong, or its header lacks something.
    """
    header, tensors = checkpoint_file.read(path)
    identity, state = header.get("identity"), header.get("state")
    if not isinstance(identity, dict) or not isinstance(state, dict):
        raise DamagedError("its header must have the objects `identity` and `state`")
    wrong = _wrong_entries(state)
    if wrong:
        raise DamagedError(
            f"`state` in its header lacks, or should not have, or has of another type: {', '.join(wrong)}"
        )
    return _Checkpoint(identity, TrainState(**state), tensors)


def _wrong_entries(state: Mapping[str, Any]) -> list[str]:
    """Return the names in which `state` is not the dictionary of a `TrainState`: missing, unknown, of another type."""
    kinds = {name: type(value) for name, value in dataclasses.asdict(TrainState(gates_sha256="")).items()}
    kinds |= {"gates_sha256": type(None)} if state.get("gates_sha256") is None else {}
    unknown = [printable(name) for name in state if name not in kinds]
    return unknown + [name for name, kind in kinds.items() if name not in state or type(state[name]) is not kind]


def _tensors_to_save(engine: Engine, mask_tracker: MaskTracker) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a checkpoint by name. Collective: optimizer tensors and statistics are gathered."""
    for name, tensor in _unique_tensors(engine.model).items():
        yield f"network/{name}", tensor.detach()
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            for key, value in engine.optimizer_state(tensor).items():
                yield f"optimizer/{key}/{name}", value
    for index, buffer in enumerate(_running_statistics(engine.model)):
        yield f"statistics/{index}", engine.gather(buffer)
    for index, mask in enumerate(mask_tracker.before or ()):
        yield f"masks/{index}", mask.to(torch.uint8)


def _load_tensors(engine: Engine, mask_tracker: MaskTracker, saved: Mapping[str, Tensor]) -> None:
    """Write every tensor of a checkpoint to its place. Collective; `saved` is used on rank 0 only."""
    network, running = _unique_tensors(engine.model), list(_running_statistics(engine.model))
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    masks: dict[int, Tensor] = {}
    for path, value in _broadcast_tensors(engine, saved):
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
        raise RunError(f"the checkpoint has no tensor for {next(iter(network))}: start again with --force")
    parameters = dict(engine.model.named_parameters())
    for name, state in states.items():
        engine.load_optimizer_state(parameters[name], state)
    engine.model.load_state_dict(engine.model.state_dict())  # calls the load hooks of gates
    mask_tracker.before = [masks[index] for index in sorted(masks)] or None


def _broadcast_tensors(engine: Engine, saved: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield rank 0's tensors by name on every process, one at a time and on the device."""
    layout = {name: [str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in saved.items()}
    for name, (dtype, shape) in rendezvous.broadcast_from_main(lambda: layout).items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype))
        yield name, engine.broadcast(saved.get(name, empty).to(engine.device))


@torch.no_grad()
def _write(engine: Engine, target: Tensor | None, value: Tensor, name: str) -> None:
    if target is None or target.shape != value.shape:
        raise RunError(f"the checkpoint's {name} does not fit this network: start again with --force")
    if isinstance(target, nn.Parameter):
        engine.assign(target, value)
    else:
        target.copy_(value)


def _unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the state dict by name; a shared one once, under its first name."""
    first = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if first[id(tensor)] == name}


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in batch_norms(model):
        yield from (buffer for buffer in (module.running_mean, module.running_var) if buffer is not None)
