"""Rules about ways to run: ZeRO, channels-last, autocast, CUDA, a resumed run, two processes."""

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
from pruneboard.testing.checks import Check, CheckFailedError, CheckSkippedError, CheckSubject, check, require
from pruneboard.testing.trial import Trial, TrialResult
from pruneboard.training.checkpoint import Checkpointer, TrainState
from pruneboard.training.engine import Engine
from pruneboard.training.mask_stats import MaskTracker

TWO_PROCESSES = {"norm_batch": 8}
"""Recipe fields for two processes: each normalizes over its half of a batch of 16."""


@check()
def writes_survive_the_next_step(subject: CheckSubject) -> None:
    """With ZeRO, where the optimizer holds a copy of the weights, values written by hooks survive its next step."""
    _audit(subject, subject.trial(zero=1).train())


@check()
def runs_in_channels_last(subject: CheckSubject) -> None:
    """Counts are exact if weights and masks use the channels-last memory format."""
    _audit(subject, subject.trial(channels_last=True).train())


@check()
def runs_under_autocast(subject: CheckSubject) -> None:
    """Counts are exact under bfloat16 autocast, where gradients have eight significant bits and are often equal."""
    _audit(subject, subject.trial(precision="bf16").train())


@check()
def runs_on_cuda(subject: CheckSubject) -> None:
    """On a CUDA device, counts are exact and every tensor of a gate is on the device of its weight."""
    if not torch.cuda.is_available():
        raise CheckSkippedError("torch sees no CUDA device")
    answer = pair.shared_pair().run_alone(0, train_on, subject.pruner, subject.track, "cuda")
    if answer.error:
        raise CheckFailedError(answer.error)


@check(applies=lambda subject: subject.takes_steps, when="training takes optimizer steps", processes=True)
def resumes_from_its_state(subject: CheckSubject) -> None:
    """A run that is stopped and resumed in another process gives the same bits as an uninterrupted run.

    The only state of the method that is restored is the tensors of its gates. The run is stopped during the search,
    just before hardening, and after hardening.
    """
    run = subject.trial().build()
    run.engine.close()
    total, harden = run.budget.total, run.budget.harden_step
    stops = sorted({step for step in (max(1, harden // 2), harden - 1, (harden + total) // 2) if 0 < step < total})
    with tempfile.TemporaryDirectory() as folder:
        whole = pair.shared_pair().run_alone(0, train_and_save, subject.pruner, subject.track, folder, stops)
        if whole.error:
            raise CheckFailedError(whole.error)
        for step in stops:
            again = pair.shared_pair().run_alone(
                1, resume, subject.pruner, subject.track, str(Path(folder) / str(step))
            )
            if again.error:
                raise CheckFailedError(f"resuming from step {step} of {total}: {again.error}")
            require(
                again.value == whole.value,
                f"a run resumed from step {step} of {total} gives a different network: keep state that outlives a step "
                "in a buffer or a parameter of a gate",
            )


@check(processes=True)
def two_processes_agree(subject: CheckSubject) -> None:
    """Two processes that see different images have equal masks and weights at every evaluation, and exact counts."""
    first, second = pair.shared_pair().run_on_both(train_together, subject.pruner, subject.track)
    for answer in (first, second):
        if answer.error:
            raise CheckFailedError(answer.error)
    require(first.value == second.value, "the two processes end with different networks")
    if subject.traits.hits_target:
        _, kept, budget = first.value
        require(kept == budget, f"two processes keep {kept} positions where the budget is {budget}")


def _audit(subject: CheckSubject, result: TrialResult) -> None:
    audit.check_budget(result.counts, subject.budget(result) if subject.traits.hits_target else None)


@dataclass(frozen=True)
class SavesAtSteps(Checkpointer):
    """Saves at the given steps only, each in its own subfolder."""

    steps: tuple[int, ...] = ()

    def due(self, step: int) -> bool:
        """Whether `step` is one of the given steps."""
        return step in self.steps

    def save(self, engine: Engine, watch: MaskTracker, state: TrainState) -> None:
        """Write a checkpoint if this is one of the given steps."""
        if state.step in self.steps:
            Checkpointer(self.folder / str(state.step), 0, {}).save(engine, watch, state)


def train_and_save(pruner: Pruner[Any], track: Track, folder: str, steps: list[int]) -> str:
    """Train without interruption, save at `steps`, and return the hash of the network."""
    checkpointer = SavesAtSteps(Path(folder), 0, {}, tuple(steps))
    return state_sha256(dict(Trial(pruner, track, checkpointer=checkpointer).train().state))


def resume(pruner: Pruner[Any], track: Track, folder: str) -> str:
    """Resume from the checkpoint in `folder` and return the hash of the network."""
    return state_sha256(dict(Trial(pruner, track, checkpointer=Checkpointer(Path(folder), 0, {})).train().state))


def train_on(pruner: Pruner[Any], track: Track, device: str) -> None:
    """Train on a device; raise an error if counts are wrong or a gate's tensor is on another device."""
    subject = CheckSubject(pruner, track)
    result = subject.trial(device=device).train()
    _audit(subject, result)
    for layer in result.run.layers:
        elsewhere = [name for name, tensor in layer.gate.state_dict().items() if tensor.device != layer.dense.device]
        require(not elsewhere, f"{', '.join(elsewhere)} of layer {layer.name} are not on the device of the weight")


def train_together(pruner: Pruner[Any], track: Track) -> tuple[str, int, int]:
    """Train as one of two processes; return the hash of the network, the number of kept positions, and the budget."""
    subject = CheckSubject(pruner, track)
    result = subject.trial(recipe=TWO_PROCESSES).train()
    return state_sha256(dict(result.state)), result.kept, subject.budget(result)


CHECKS: tuple[Check, ...] = (
    writes_survive_the_next_step,
    runs_in_channels_last,
    runs_under_autocast,
    runs_on_cuda,
    resumes_from_its_state,
    two_processes_agree,
)
