"""Rules about the ways to run: ZeRO, memory layout, autocast, CUDA, a stop on the way, two processes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruneboard.api import Pruner, Track
from pruneboard.experiment import audit
from pruneboard.models import state_sha256
from pruneboard.testing import pair
from pruneboard.testing.bench import Bench, Trained
from pruneboard.testing.subject import Check, CheckFailedError, CheckSkippedError, Subject, check, require
from pruneboard.training.checkpoint import Checkpointer, TrainState
from pruneboard.training.engine import Engine
from pruneboard.training.mask_stats import MaskTracker

TOGETHER = {"norm_batch": 8}
"""Recipe fields under which two processes take the steps of one."""


@check()
def writes_survive_the_next_step(subject: Subject) -> None:
    """Where the optimizer keeps a copy of the weights (ZeRO), what hooks wrote is still there after its next step."""
    _sound(subject, subject.bench(zero=1).trained())


@check()
def runs_in_channels_last(subject: Subject) -> None:
    """Weights and masks laid out channels-last give exact counts too."""
    _sound(subject, subject.bench(channels_last=True).trained())


@check()
def runs_under_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast, where gradients have eight significant bits and so are often equal, counts are exact."""
    _sound(subject, subject.bench(precision="bf16").trained())


@check()
def runs_on_cuda(subject: Subject) -> None:
    """On a CUDA device counts are exact, and every tensor of a gate is where its weight is."""
    if not torch.cuda.is_available():
        raise CheckSkippedError("torch sees no CUDA device")
    answer = pair.run_in_new_process(train_on, subject.pruner, subject.track, "cuda")
    if answer.error:
        raise CheckFailedError(answer.error)


@check(applies=lambda subject: subject.learns, when="something is learned", processes=True)
def resumes_from_its_state(subject: Subject) -> None:
    """A run that is stopped and goes on in another process ends as one that was not stopped, bit for bit.

    It goes on from the tensors of its gates alone; it is stopped within the search, just before hardening, and after.
    """
    run = subject.bench().ready()
    run.engine.close()
    total, harden = run.budget.total, run.budget.harden_step
    stops = sorted({step for step in (max(1, harden // 2), harden - 1, (harden + total) // 2) if 0 < step < total})
    with tempfile.TemporaryDirectory() as folder:
        whole = pair.shared_pair().run_alone(0, train_and_save, subject.pruner, subject.track, folder, stops)
        if whole.error:
            raise CheckFailedError(whole.error)
        for step in stops:
            again = pair.shared_pair().run_alone(1, go_on, subject.pruner, subject.track, str(Path(folder) / str(step)))
            if again.error:
                raise CheckFailedError(f"going on from step {step} of {total}: {again.error}")
            require(
                again.value == whole.value,
                f"stopped at step {step} of {total} it ends otherwise: what survives a step must be a buffer or a "
                "parameter of a gate",
            )


@check(processes=True)
def two_processes_agree(subject: Subject) -> None:
    """Two processes that see different images have equal masks and weights at every evaluation, and the exact count."""
    first, second = pair.shared_pair().run_on_both(train_together, subject.pruner, subject.track)
    for answer in (first, second):
        if answer.error:
            raise CheckFailedError(answer.error)
    require(first.value == second.value, "the two processes end with different networks")
    if subject.traits.hits_target:
        _, kept, budget = first.value
        require(kept == budget, f"two processes keep {kept} positions where the budget is {budget}")


def _sound(subject: Subject, found: Trained) -> None:
    audit.check_budget(found.counts, subject.budget(found) if subject.traits.hits_target else None)


@dataclass(frozen=True)
class AtSteps(Checkpointer):
    """Saves at chosen steps, each in a folder of its own, and nowhere else."""

    steps: tuple[int, ...] = ()

    def due(self, step: int) -> bool:
        """Whether `step` is one of them."""
        return step in self.steps

    def save(self, engine: Engine, watch: MaskTracker, state: TrainState) -> None:
        """Write the checkpoint of a chosen step."""
        if state.step in self.steps:
            Checkpointer(self.folder / str(state.step), 0, {}).save(engine, watch, state)


def train_and_save(pruner: Pruner[Any], track: Track, folder: str, steps: list[int]) -> str:
    """Train without a stop, save at `steps`, and return the hash of the network."""
    checkpointer = AtSteps(Path(folder), 0, {}, tuple(steps))
    return state_sha256(dict(Bench(pruner, track, checkpointer=checkpointer).trained().state))


def go_on(pruner: Pruner[Any], track: Track, folder: str) -> str:
    """Go on from the checkpoint in `folder` and return the hash of the network."""
    return state_sha256(dict(Bench(pruner, track, checkpointer=Checkpointer(Path(folder), 0, {})).trained().state))


def train_on(pruner: Pruner[Any], track: Track, device: str) -> None:
    """Train on a device; raise what is wrong with the count, or with where gates are."""
    subject = Subject(pruner, track)
    found = subject.bench(device=device).trained()
    _sound(subject, found)
    for layer in found.run.layers:
        astray = [name for name, tensor in layer.gate.state_dict().items() if tensor.device != layer.dense.device]
        require(not astray, f"{', '.join(astray)} of layer {layer.name} stayed on another device")


def train_together(pruner: Pruner[Any], track: Track) -> tuple[str, int, int]:
    """Train as one of two processes; return the network's hash, what is kept, and the budget."""
    subject = Subject(pruner, track)
    found = subject.bench(recipe=TOGETHER).trained()
    return state_sha256(dict(found.state)), found.kept, subject.budget(found)


CHECKS: tuple[Check, ...] = (
    writes_survive_the_next_step,
    runs_in_channels_last,
    runs_under_autocast,
    runs_on_cuda,
    resumes_from_its_state,
    two_processes_agree,
)
