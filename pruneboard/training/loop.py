"""The loop: the same budget, data, optimizer and schedule for every method, on one page.

Per optimizer step: `before_step` -> (forward, loss, backward) x forward passes -> the optimizer ->
`after_step`. At `harden_step` masks become final, and the remaining steps fine-tune the weights. A run that
was stopped goes on from its newest checkpoint, and ends as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pruneboard import scores
from pruneboard.api import Batch, DenseGradientPruner, Progress, ScoringPruner, Validate
from pruneboard.data import Split, calibration_batches, eval_batches, train_batches
from pruneboard.draws import key
from pruneboard.errors import AuditError, DivergedError
from pruneboard.models import state_sha256
from pruneboard.processes import interrupts
from pruneboard.training.evaluate import (
    Metrics,
    average_batch_statistics,
    evaluate,
    frozen_batch_statistics,
    reestimate_statistics,
    restored_batch_statistics,
    statistics,
)
from pruneboard.training.gates import gate_tensors
from pruneboard.training.optim import freeze_gates, schedule, set_learning_rates
from pruneboard.training.scoring import ScoringView, dense_gradients, endless_batches, lent
from pruneboard.training.state import Training, check_finite

CHECK_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""


def resume_from_checkpoint(run: Training, attempt: Mapping[str, Any]) -> None:
    """Go on from the newest checkpoint, if there is one; `attempt` says what on."""
    found = run.checkpointer.restore(run.engine, run.mask_tracker)
    if found is not None:
        run.listener.on_phase(f"going on from step {found.step}")
        run.state = found
        if found.gates_sha256 is not None:
            freeze_gates(run.engine.groups)
    run.state.attempts.append({"step": run.state.step, **attempt})


def fit(run: Training) -> None:
    """Train what is left of the budget, hardening on the way, and leave statistics re-estimated on the final weights.

    Raises:
        InterruptedRunError: SIGTERM came; the run is saved.
        KeyboardInterrupt: SIGINT came; the run is saved.
    """
    if not run.state.step:
        prune_before_training(run)
    with interrupts.requests() as request:
        train_epochs(run, request)
    if run.state.gates_sha256 is None:
        harden(run, run.budget.harden_step)
    # For every method alike: what is folded then depends on the final weights, not on when masks were fixed.
    reestimate_statistics(run.engine, calibration_batches(run.dataset, run.plan))
    check_gates_unchanged(run)


def train_epochs(run: Training, request: interrupts.Request) -> None:
    """Take the steps that are left, with a checkpoint every few of them and at the end of each epoch."""
    state = run.state
    losses = LossMeter(run)
    for epoch in range((state.step - state.epoch_steps) // run.budget.steps_per_epoch, run.epochs):
        for batches in train_batches(run.dataset, run.plan, epoch=epoch, start=state.epoch_steps):
            if state.step == run.budget.harden_step:
                harden(run, state.step)
            losses.add(state.step, train_step(run, state.step, batches))
            state.step += 1
            state.epoch_steps += 1
            _stop_or_save(run, losses, request)
        _close_epoch(run, epoch, losses.close())
        save(run, losses)
        _stop(run, run.engine.largest(request.number))  # asked for during the evaluation, which takes a while


def _stop_or_save(run: Training, losses: LossMeter, request: interrupts.Request) -> None:
    """Between two steps: stop where any process was asked to, and save where that is due."""
    step = run.state.step
    # All stop at the same step. Asking waits for the device, so on GPUs it is done every few steps.
    asked = run.engine.device.type == "cpu" or run.engine.world == 1 or step % CHECK_EVERY == 0
    number = run.engine.largest(request.number) if asked else 0
    if number or (run.checkpointer.due(step) and step % run.budget.steps_per_epoch):  # an epoch's end is saved anyway
        save(run, losses)
    _stop(run, number)


def _stop(run: Training, number: int) -> None:
    """End the run, which is saved, if a signal asked for it."""
    if number:
        raise interrupts.interruption(number, f", saved at step {run.state.step}")


def save(run: Training, losses: LossMeter) -> None:
    """Write a checkpoint."""
    run.checkpointer.save(
        run.engine, run.mask_tracker, replace(run.state, epoch_loss=losses.total(), seconds=run.seconds)
    )


def prune_before_training(run: Training) -> None:
    """Let a `ScoringPruner` score every weight, and keep exactly the budget's highest scores."""
    pruner = run.pruner
    if not isinstance(pruner, ScoringPruner):
        return
    run.listener.on_phase("scoring the weights before training")
    # The recipe's micro-batch, where the plan's may depend on the number of processes: scores must not.
    stream = endless_batches(run.dataset, run.plan, run.recipe.micro_batch)
    view = ScoringView(run.engine.model, run.layers, run.dataset.image_size, run.recipe.label_smoothing)
    with lent(view, stream) as batches:
        found = run.hook("score", lambda: pruner.score(view, batches))
    masks = run.hook("score", lambda: scores.top_k(found, scores.budget(run.layers)))
    scores.set_masks(run.layers, masks)
    run.state.scoring_passes = view.images


def train_step(run: Training, step: int, batches: Sequence[Batch]) -> Tensor:
    """Take one optimizer step and return its mean loss on this process, still on the device."""
    at = run.progress(step)
    searching = at.phase == "search"
    set_learning_rates(run.engine.groups, schedule(step, run.budget.total, run.budget.warmup))
    if searching:
        run.hook("before_step", lambda: run.pruner.before_step(run.layers, at))
    run.engine.model.train()
    with dense_gradients(run.layers, wanted=_wants_gradients(run, at)) as gradients:
        loss = _forward_backward(run, batches, run.forward_passes if searching else 1)
    run.engine.step()
    if gradients is not None:
        run.hook("update", lambda: _update(run, gradients, at))
    if searching:
        run.hook("after_step", lambda: run.pruner.after_step(run.layers, at))
    return loss


def _forward_backward(run: Training, batches: Sequence[Batch], passes: int) -> Tensor:
    modules = statistics(run.engine.model)
    share = passes * len(batches)
    total = torch.zeros((), device=run.engine.device)
    for index in range(share):
        forward_pass, micro = divmod(index, len(batches))
        run.draw_key.forward_pass = forward_pass
        # Dropout and the like draw from the global state: keyed, so that nothing needs to be carried along.
        chunk = run.engine.rank * len(batches) + micro  # its place in the global batch, on any number of processes
        torch.manual_seed(key(run.draw_key.seed, "model", run.draw_key.step, forward_pass, chunk))
        # Every n-th image, and not a half: the same ones however the batch is cut for processes.
        seen = slice(forward_pass, None, passes) if run.split_batch else slice(None)
        images, labels = (part[seen] for part in batches[micro])
        with frozen_batch_statistics(modules if forward_pass else ()):
            logits = run.engine.forward(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=run.recipe.label_smoothing) / share
        run.engine.backward(loss, last=index == share - 1)
        total += loss.detach()
    return total


def harden(run: Training, step: int) -> None:
    """Let the method fix its masks, then hold it to that."""
    run.listener.on_phase("hardening: choosing the final masks")
    check_finite(run, step)
    at = run.progress(step)
    with lent_validation(run) as validate:
        run.hook("harden", lambda: run.pruner.harden(run.layers, at, validate))
    freeze_gates(run.engine.groups)
    check_ranks_agree(run, step)
    run.state.gates_sha256 = state_sha256(gate_tensors(run.layers))
    reestimate_statistics(run.engine, calibration_batches(run.dataset, run.plan))


@contextmanager
def lent_validation(run: Training) -> Iterator[Validate]:
    """Lend `validation_top1` while the block lasts: a method that kept it could select all through the training."""
    lent_out = True

    def validate() -> float:
        if not lent_out:
            raise RuntimeError("hardening is over: validate() is lent to `harden` until it returns")
        return validation_top1(run)

    try:
        yield validate
    finally:
        lent_out = False


def validation_top1(run: Training) -> float:
    """Return validation top-1 after re-estimating statistics on a fixed set of batches, then restore them.

    Collective: every process calls it equally often and gets the same number.
    """
    training = run.engine.model.training
    with restored_batch_statistics(run.engine.model):
        reestimate_statistics(run.engine, calibration_batches(run.dataset, run.plan))
        found = validate(run).top1
    run.engine.model.train(training)  # as the method that asked had it
    return found


def validate(run: Training) -> Metrics:
    """Evaluate the model as it stands on the validation split."""
    check_ranks_agree(run, run.draw_key.step)
    run.engine.model.eval()
    return evaluate_split(run, run.engine.forward, run.dataset.validation)


def evaluate_split(run: Training, forward: Callable[[Tensor], Tensor], split: Split) -> Metrics:
    """Return the scores of `forward`, images to logits, on a split; every process evaluates its share."""
    batches = eval_batches(split, run.dataset, run.plan)
    return evaluate(forward, batches, len(run.dataset.classes), run.engine.sum)


def check_ranks_agree(run: Training, step: int) -> None:
    """Fail if masks or weights differ between processes, or from the copy that the optimizer goes by.

    Raises:
        AuditError: naming the first tensor that does.
    """
    weights = dict(run.engine.model.named_parameters())
    name = run.engine.first_difference({**gate_tensors(run.layers), **weights})
    if name is not None:
        raise AuditError(f"method {run.method}: tensor {name} differs between processes at step {step}")
    name = run.engine.first_unassigned(weights)
    if name is not None:
        raise AuditError(
            f"method {run.method}: {name} was written in place, which ZeRO undoes at the next step: "
            "write it with Progress.assign"
        )


def check_gates_unchanged(run: Training) -> None:
    """Fail if a gate changed after hardening."""
    if run.state.gates_sha256 != state_sha256(gate_tensors(run.layers)):
        raise AuditError(f"method {run.method}: a gate changed after hardening; every mask must be final there")


class LossMeter:
    """The losses of one epoch, averaged over processes when asked; looked at every few steps."""

    def __init__(self, run: Training) -> None:
        """Start with what the open epoch has so far."""
        self._run = run
        mine = run.state.epoch_loss * run.engine.world if run.engine.rank == 0 else 0.0
        self._total = torch.tensor(mine, dtype=torch.float64, device=run.engine.device)

    def add(self, step: int, loss: Tensor) -> None:
        """Record the loss of `step`; every few steps, show it and check that it is finite."""
        self._total += loss
        done = step + 1
        if done % CHECK_EVERY and done != self._run.budget.total:
            return
        value = self._mean(loss)  # over processes, so that all of them see a loss that is not finite
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {step}: lower the learning rate (--lr) or clip (--clip)")
        self._run.listener.on_step(done, self._run.budget.total, value)

    def total(self) -> float:
        """Return the sum over the open epoch's steps."""
        return self._mean(self._total)

    def close(self) -> float:
        """Return the epoch's mean loss and start the next, or raise if it is not finite."""
        value = self.total() / self._run.state.epoch_steps
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at the end of an epoch: lower the learning rate (--lr)")
        self._total.zero_()
        self._run.state.epoch_steps = 0
        return value

    def _mean(self, value: Tensor) -> float:
        return float(self._run.engine.sum(value)) / self._run.engine.world


def _close_epoch(run: Training, epoch: int, loss: float) -> None:
    step = (epoch + 1) * run.budget.steps_per_epoch
    at = run.progress(step)
    average_batch_statistics(run.engine)
    found = validate(run)
    row = {
        "epoch": epoch + 1,
        "step": step,
        "phase": at.phase,
        "loss": loss,
        "lr": schedule(step - 1, run.budget.total, run.budget.warmup) * run.recipe.lr,
        "validation": {"top1": found.top1, "loss": found.loss},
        **run.mask_tracker.update(run.layers),
        "diagnostics": dict(run.hook("diagnostics", lambda: run.pruner.diagnostics(run.layers, at))),
    }
    if found.top1 > run.state.best_validation.get("top1", -1.0):
        run.state.best_validation = {"top1": found.top1, "epoch": epoch + 1}
    run.listener.on_epoch(row)


def _wants_gradients(run: Training, at: Progress) -> bool:
    pruner = run.pruner
    if not isinstance(pruner, DenseGradientPruner) or at.phase == "finetune":
        return False
    return run.hook("wants_gradients", lambda: pruner.wants_gradients(at))


def _update(run: Training, gradients: list[Tensor], at: Progress) -> None:
    assert isinstance(run.pruner, DenseGradientPruner)
    run.engine.average_(gradients)
    run.pruner.update(run.layers, gradients, at)
