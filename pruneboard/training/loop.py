"""The training loop: the same budget, data, optimizer and schedule for every method.

An optimizer step is `before_step` -> (forward, loss, backward) x forward passes -> optimizer -> `after_step`. At
`harden_step` the masks become final, and the remaining steps fine-tune the weights. An interrupted run resumes from its
newest checkpoint and ends as if it had not been interrupted.

Read `fit` first, then `train_epochs`, `train_step` and `harden`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pruneboard import scores
from pruneboard.api import Batch, DenseGradientPruner, Progress, ScoringPruner, Validate
from pruneboard.data import CALIBRATION_BATCHES, Split, calibration_batches, eval_batches, train_batches
from pruneboard.draws import key
from pruneboard.errors import AuditError, DivergedError, StoreError
from pruneboard.models import state_sha256
from pruneboard.processes import interrupts, own_threads, phases
from pruneboard.training import integrity, mask_stats
from pruneboard.training.evaluate import (
    Metrics,
    average_batch_statistics,
    batch_norms,
    evaluate,
    frozen_batch_statistics,
    reestimate_statistics,
    restored_batch_statistics,
)
from pruneboard.training.gates import gate_tensors
from pruneboard.training.integrity import Integrity, check_same_in_both_modes
from pruneboard.training.optim import freeze_gates, schedule, set_learning_rates
from pruneboard.training.scoring import ScoringView, dense_gradients, endless_batches, valid_during_scoring
from pruneboard.training.state import Training, check_finite

logger = logging.getLogger("pruneboard")

CHECK_EVERY = 10
"""Steps between two checks of the loss; each check waits for the device."""


def resume_from_checkpoint(run: Training, attempt: Mapping[str, Any]) -> None:
    """Restore the newest checkpoint, if there is one, and add `attempt` to the list of attempts."""
    restored = run.checkpointer.restore(run.engine, run.mask_tracker)
    if restored is not None:
        run.listener.on_phase(f"resuming from step {restored.step}")
        run.state = restored
        if restored.gates_sha256 is not None:  # the masks were final already
            freeze_gates(run.engine.groups)
    run.state.attempts.append({"step": run.state.step, **attempt})


def fit(run: Training) -> None:
    """Train for the rest of the budget, harden on the way, and re-estimate batch statistics of the final weights.

    Raises:
        InterruptedRunError: SIGTERM was received; a checkpoint is saved.
        KeyboardInterrupt: SIGINT was received; a checkpoint is saved.
    """
    run.integrity = Integrity(run)
    if not run.state.step:
        prune_before_training(run)
        run.integrity.check_settings()
    with interrupts.listen_for_stop() as request:
        run.integrity.remember_settings()
        train_epochs(run, request)
        run.integrity.check_settings()
        run.integrity.check_untouched()
    if run.state.gates_sha256 is None:  # the search took the whole budget
        harden(run, run.budget.harden_step)
    run.integrity.finish()
    # This is done for every method, including those without fine-tuning, so that the statistics depend on the final
    # weights only, and not on when the masks were fixed.
    recalibrate(run)
    check_gates_unchanged(run)
    run.integrity.check_finished()


def recalibrate(run: Training) -> None:
    """Re-estimate the batch statistics on the board's fixed batches."""
    total = CALIBRATION_BATCHES * len(run.plan.chunks)
    batches = calibration_batches(run.dataset, run.plan, CALIBRATION_BATCHES)
    reestimate_statistics(run.engine, phases.counted("batch statistics", batches, total))


def train_epochs(run: Training, request: interrupts.StopRequest) -> None:
    """Take the remaining steps; save checkpoints at the chosen steps and at the end of each epoch."""
    state = run.state
    losses = LossMeter(run)
    if run.epochs:
        run.listener.on_step(state.step, run.budget.total, None)
    for epoch in range((state.step - state.epoch_steps) // run.budget.steps_per_epoch, run.epochs):
        for batches in train_batches(run.dataset, run.plan, epoch=epoch, start=state.epoch_steps):
            if state.step == run.budget.harden_step:
                harden(run, state.step)
            losses.add(state.step, train_step(run, state.step, batches))
            state.step += 1
            state.epoch_steps += 1
            _save_or_stop(run, losses, request)
        _end_epoch(run, epoch, losses.end_epoch())
        save_checkpoint(run, losses)
        _stop_if(run, run.engine.maximum(request.number))  # a signal may arrive during the evaluation, which takes long


def _save_or_stop(run: Training, losses: LossMeter, request: interrupts.StopRequest) -> None:
    """Between two steps, save a checkpoint if one is due, and stop if any process received a signal."""
    step = run.state.step
    # Processes share the signal's number, so that all stop after the same step. On GPUs this waits for the device, and
    # is done only every few steps.
    synchronize = run.engine.device.type == "cpu" or run.engine.world == 1 or step % CHECK_EVERY == 0
    number = run.engine.maximum(request.number) if synchronize else 0
    if number or (run.checkpointer.due(step) and step % run.budget.steps_per_epoch):  # an epoch's end is saved anyway
        save_checkpoint(run, losses)
    _stop_if(run, number)


def _stop_if(run: Training, number: int) -> None:
    """End the run, whose checkpoint is already saved, if `number` is that of a signal; 0 is none."""
    if number:
        raise interrupts.stop_error(number, f", saved at step {run.state.step}")


def save_checkpoint(run: Training, losses: LossMeter) -> None:
    """Save a checkpoint of the run as it is between two steps."""
    state = replace(run.state, epoch_loss=losses.total(), seconds=run.seconds)
    try:
        run.checkpointer.save(run.engine, run.mask_tracker, state)
    except StoreError:
        if run.state.step < run.budget.total:
            raise
        # The trained network is worth more than a checkpoint: what follows can save it in another folder.
        logger.exception("cannot save a checkpoint after the last step")


def prune_before_training(run: Training) -> None:
    """Let a `ScoringPruner` score all weights, and keep as many of the highest scores as the budget allows."""
    pruner = run.pruner
    if not isinstance(pruner, ScoringPruner):
        return
    run.listener.on_phase("scoring the weights before training")
    # The recipe's micro-batch and not the plan's, which may depend on the number of processes: scores must not.
    stream = endless_batches(run.dataset, run.plan, run.recipe.micro_batch)
    view = ScoringView(run.engine.model, run.layers, run.dataset.image_size, run.recipe.label_smoothing)
    with valid_during_scoring(view, stream) as batches:
        weight_scores = run.hook("score", lambda: pruner.score(view, batches))
    masks = run.hook("score", lambda: scores.top_k(weight_scores, scores.budget(run.layers)))
    scores.set_masks(run.layers, masks)
    run.state.scoring_passes = view.images


def train_step(run: Training, step: int, batches: Sequence[Batch]) -> Tensor:
    """Take one optimizer step, and return its mean loss on this process as a 0-dimensional tensor on the device."""
    at = run.progress(step)
    searching = at.phase == "search"
    set_learning_rates(run.engine.groups, schedule(step, run.budget.total, run.budget.warmup))
    if searching:
        run.hook("before_step", lambda: run.pruner.before_step(run.layers, at))
    run.engine.model.train()
    with dense_gradients(run.layers, wanted=_wants_gradients(run, at)) as gradients:
        loss = _forward_backward(run, batches, run.forward_passes if searching else 1)
    if run.integrity is not None:
        run.integrity.check_step(step)
        run.integrity.check_optimizer(step)
    run.engine.step()
    if run.integrity is not None and not searching:
        run.integrity.seal(step)
    if gradients is not None:
        run.hook("update", lambda: _update(run, gradients, at))
    if searching:
        run.hook("after_step", lambda: run.pruner.after_step(run.layers, at))
    return loss


def _forward_backward(run: Training, batches: Sequence[Batch], passes: int) -> Tensor:
    """Accumulate the gradients of a step over all forward passes and micro-batches, and return its mean loss.

    With P `passes` and the M micro-batches of this process, the loss is sum over p, m of L[p, m] / (P M), L being the
    mean over a micro-batch. The engine then averages gradients over processes. All micro-batches have the same size, so
    this is the mean over the global batch and all passes, for every number of processes.
    """
    norms = batch_norms(run.engine.model)
    share = passes * len(batches)
    total = torch.zeros((), device=run.engine.device)
    for index in range(share):
        forward_pass, micro = divmod(index, len(batches))
        run.draw_key.forward_pass = forward_pass
        # Dropout and stochastic depth draw from torch's global generator. It is seeded before every pass with a key
        # made of the place of the pass in the run, so no generator state has to be saved. `chunk` is the position of
        # the micro-batch in the global batch, which is the same whichever process computes it.
        chunk = run.engine.rank * len(batches) + micro
        torch.manual_seed(key(run.draw_key.seed, "model", run.draw_key.step, forward_pass, chunk))
        # With `split_batch` pass p sees the images p, p + P, p + 2P, ... and not a contiguous part: these are the same
        # images however the global batch is distributed over processes.
        seen = slice(forward_pass, None, passes) if run.split_batch else slice(None)
        images, labels = (part[seen] for part in batches[micro])
        # Only the first pass updates the running statistics, so that every method updates them once per micro-batch.
        with frozen_batch_statistics(norms if forward_pass else ()):
            logits = run.engine.forward(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=run.recipe.label_smoothing) / share
        run.engine.backward(loss, last=index == share - 1)
        total += loss.detach()
    return total


def harden(run: Training, step: int) -> None:
    """Let the method choose its final masks, then freeze its gates and remember their hash."""
    run.listener.on_phase("hardening: choosing the final masks")
    check_finite(run, step)
    at = run.progress(step)
    with phases.within("hardening"), validate_during_hardening(run) as validate, integrity.weights_kept(run):
        run.hook("harden", lambda: run.pruner.harden(run.layers, at, validate))
    if run.integrity is not None:
        run.integrity.check_optimizer()
    freeze_gates(run.engine.groups)
    check_ranks_agree(run, step)
    with run.integrity.unchanged("the evaluation after hardening") if run.integrity is not None else nullcontext():
        check_same_in_both_modes(run.method, run.layers)
        run.state.gates_sha256 = state_sha256(gate_tensors(run.layers))
        if run.integrity is not None:
            run.integrity.gates_frozen()
            run.integrity.seal(step)
        recalibrate(run)


@contextmanager
def validate_during_hardening(run: Training) -> Iterator[Validate]:
    """Yield `validate` for `harden`; after the block it raises, so that no method can keep it to select by it.

    Calls are counted for the record, and their images for the training cost.

    Raises:
        AuditError: more calls than the method declares, even if it caught the error that the first of them raised.
    """
    hardening = True

    def validate() -> float:
        if not hardening:
            raise RuntimeError("hardening is over: validate() is valid only during harden()")
        run.state.validations += 1
        check_validations(run)
        run.state.validation_passes += images_per_validation(run)
        with own_threads.starting():
            phases.item("validation", run.state.validations, replace=False)
            return validation_top1(run)

    try:
        yield validate
    finally:
        hardening = False
    check_validations(run)


def check_validations(run: Training) -> None:
    """Raise AuditError if `harden` called `validate` more often than the method declares."""
    if run.state.validations > run.max_validations:
        raise AuditError(
            f"method {run.method}: harden called validate() more than {run.max_validations} times: call it less often, "
            "or declare more with Traits.max_validations"
        )


def images_per_validation(run: Training) -> int:
    """Return how many images all processes pass through the network in one call of `validate`."""
    statistics = CALIBRATION_BATCHES * run.plan.batch_size if batch_norms(run.engine.model) else 0
    return statistics + len(run.dataset.validation)


def validation_top1(run: Training) -> float:
    """Return validation top-1 with re-estimated batch statistics, and restore statistics and mode afterwards.

    Collective: every process must call it equally often; all get the same number.
    """
    training = run.engine.model.training
    with restored_batch_statistics(run.engine.model):
        recalibrate(run)
        top1 = validate(run).top1
    run.engine.model.train(training)
    return top1


def validate(run: Training) -> Metrics:
    """Evaluate the current model on the validation split."""
    check_ranks_agree(run, run.draw_key.step)
    run.engine.model.eval()
    return evaluate_split(run, run.engine.forward, run.dataset.validation, "validation images")


def evaluate_split(run: Training, forward: Callable[[Tensor], Tensor], split: Split, name: str) -> Metrics:
    """Return the metrics of `forward`, images to logits, on a split; every process evaluates its share.

    Args:
        run: the training.
        forward: images to logits.
        split: a split of the run's data set.
        name: name of the split in reports of the progress.
    """
    total = math.ceil(len(split) / (run.plan.micro_batch * run.plan.world))
    batches = phases.counted(f"{name}, batch", eval_batches(split, run.dataset, run.plan), total)
    return evaluate(forward, batches, len(run.dataset.classes), run.engine.sum)


def check_ranks_agree(run: Training, step: int) -> None:
    """Check that masks and weights are equal on all processes, and that weights equal their master copies.

    Raises:
        AuditError: they are not; the message names the first tensor.
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
    """Check that no bit of a gate has changed since hardening."""
    if run.state.gates_sha256 != state_sha256(gate_tensors(run.layers)):
        raise AuditError(f"method {run.method}: a gate changed after hardening; every mask must be final there")
    if run.integrity is not None:
        run.integrity.check_masks()


class LossMeter:
    """Averages the losses of one epoch over steps and processes, and checks every few steps that they are finite."""

    def __init__(self, run: Training) -> None:
        """Start with the losses of the current epoch so far; after a resume that is more than 0."""
        self._run = run
        # The checkpoint has the mean over processes. Rank 0 starts with all of it, in case their number has changed.
        mine = run.state.epoch_loss * run.engine.world if run.engine.rank == 0 else 0.0
        self._total = torch.tensor(mine, dtype=torch.float64, device=run.engine.device)

    def add(self, step: int, loss: Tensor) -> None:
        """Add the loss of `step`; every few steps, check that it is finite and report it.

        Raises:
            DivergedError: it is not finite.
        """
        self._total += loss
        done = step + 1
        if done % CHECK_EVERY and done != self._run.budget.total:
            self._run.listener.on_step(done, self._run.budget.total, None)
            return
        value = self._mean(loss)  # over processes, so that all of them see a loss that is not finite
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {step}: lower the learning rate (--lr) or clip (--clip)")
        self._run.listener.on_step(done, self._run.budget.total, value)

    def total(self) -> float:
        """Return the sum of the losses of the current epoch, averaged over processes."""
        return self._mean(self._total)

    def end_epoch(self) -> float:
        """Return the mean loss of the epoch, and start the next one.

        Raises:
            DivergedError: it is not finite.
        """
        value = self.total() / self._run.state.epoch_steps
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at the end of an epoch: lower the learning rate (--lr)")
        self._total.zero_()
        self._run.state.epoch_steps = 0
        return value

    def _mean(self, value: Tensor) -> float:
        return float(self._run.engine.sum(value)) / self._run.engine.world


def _end_epoch(run: Training, epoch: int, loss: float) -> None:
    """Evaluate on the validation split, and report the epoch as one line of `metrics.jsonl`."""
    assert run.integrity is not None
    step = (epoch + 1) * run.budget.steps_per_epoch
    at = run.progress(step, may_write=False)
    average_batch_statistics(run.engine)
    with run.integrity.unchanged(f"the evaluation at step {step}"):
        metrics = validate(run)
    with run.integrity.unchanged(f"diagnostics at step {step}"):
        diagnostics = run.hook("diagnostics", lambda: mask_stats.numbers(run.pruner.diagnostics(run.layers, at)))
    run.integrity.check_hooks()
    run.integrity.check_settings()
    if run.state.gates_sha256 is not None:
        check_gates_unchanged(run)
        check_same_in_both_modes(run.method, run.layers)
    row = {
        "epoch": epoch + 1,
        "step": step,
        "phase": at.phase,
        "loss": loss,
        "lr": schedule(step - 1, run.budget.total, run.budget.warmup) * run.recipe.lr,
        "validation": {"top1": metrics.top1, "loss": metrics.loss},
        **run.mask_tracker.update(run.layers),
        "diagnostics": diagnostics,
    }
    if metrics.top1 > run.state.best_validation.get("top1", -1.0):
        run.state.best_validation = {"top1": metrics.top1, "epoch": epoch + 1}
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
