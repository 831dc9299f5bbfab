"""What a method changes where it may not is found, however it writes."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
import torch

from pruneboard import registry
from pruneboard.api import Mask
from pruneboard.data import train_batches
from pruneboard.errors import AuditError
from pruneboard.testing.trial import Trial
from pruneboard.training import loop
from pruneboard.training.integrity import Integrity, check_same_in_both_modes

WRITES = {
    "in place": lambda tensor: tensor.mul_(2),
    "through data": lambda tensor: tensor.data.mul_(2),
    "through numpy": lambda tensor: tensor.detach().numpy().fill(2),
    "another storage": lambda tensor: setattr(tensor, "data", tensor.detach() * 2),
}


@pytest.fixture
def run(request):
    """A training of magnitude pruning on one layer's sample, at its hardening."""
    made = Trial(registry.build(registry.find("magnitude"), 0.9, {}), "prune", **getattr(request, "param", {})).build()
    made.integrity = Integrity(made)
    yield made
    made.engine.close()


@pytest.fixture
def first_layer(monkeypatch):
    """Compare the bits of the first layer in every step, where the choice is random otherwise."""
    monkeypatch.setattr(random.Random, "randrange", lambda _, stop: 0)


@pytest.mark.usefixtures("first_layer")
@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("what", ["weight", "gate"])
def test_a_write_between_two_steps_is_found(run, how, what):
    """A weight or a mask that changes after one step and before the next fails the run, however it is written."""
    run.integrity.seal(12)
    run.integrity.check_step(13)
    layer = run.layers[0]
    with torch.no_grad():
        WRITES[how](layer.dense if what == "weight" else layer.gate.keep)
    with pytest.raises(AuditError, match=f"a {what} changed after hardening, at step 13"):
        run.integrity.check_step(13)


@pytest.mark.parametrize(
    "change",
    [lambda weight: weight.requires_grad_(False), lambda weight: setattr(weight, "data", weight.data[:1])],
    ids=["frozen", "shape"],
)
def test_a_parameter_of_another_kind_is_found(run, change):
    """A weight that a method freezes, or replaces by one of another shape, fails the run at the next step."""
    run.integrity.check_step(3)
    change(run.layers[1].dense)
    with pytest.raises(AuditError, match=f"changed shape, dtype or requires_grad of {run.layers[1].name}"):
        run.integrity.check_step(4)


@pytest.mark.parametrize("how", WRITES)
def test_a_write_during_a_block_is_found(run, how):
    """A weight that changes in a block in which nothing may change fails the run, in every layer."""
    with pytest.raises(AuditError, match="a weight or a gate changed during diagnostics"):  # noqa: SIM117
        with run.integrity.unchanged("diagnostics"), torch.no_grad():
            WRITES[how](run.layers[-1].dense)


def test_a_write_after_the_last_step_is_found(run):
    """What the optimizer left is the result: a later write is found, and without one nothing is."""
    run.integrity.finish()
    run.integrity.check_finished()
    run.layers[-1].dense.data.mul_(2)
    with pytest.raises(AuditError, match="changed after the last step"):
        run.integrity.check_finished()


@pytest.mark.parametrize("run", [{"zero": 0}, {"zero": 1}, {"zero": 2}, {"channels_last": True}], indirect=True)
def test_training_itself_changes_nothing_in_between(run):
    """Steps of an honest method pass, at every ZeRO stage and in channels-last: only the optimizer writes."""
    harden = run.budget.harden_step
    batches = [batch for epoch in range(2) for batch in train_batches(run.dataset, run.plan, epoch=epoch)]
    loop.harden(run, harden)
    for step in range(harden, run.budget.total):
        loop.train_step(run, step, batches[step])
    run.integrity.check_step(run.budget.total)


def hook_on_module(run):
    """Leave a forward hook on a module."""
    run.engine.model.get_submodule("first_norm").register_forward_hook(lambda *_: None)


def hook_on_parameter(run):
    """Leave a gradient hook on a parameter."""
    run.layers[0].dense.register_hook(lambda gradient: gradient)


def hook_after_accumulation(run):
    """Leave a hook that runs after a gradient is accumulated."""
    run.layers[0].dense.register_post_accumulate_grad_hook(lambda _: None)


def hook_on_gate(run):
    """Leave a backward hook on a gate."""
    run.layers[0].gate.register_full_backward_hook(lambda *_: None)


def hook_on_optimizer(run):
    """Leave a hook on the optimizer."""
    run.engine.optimizers[0].register_step_pre_hook(lambda *_: None)


HOOKS = {
    hook_on_module: "first_norm",
    hook_on_parameter: "stem.parametrizations.weight.original",
    hook_after_accumulation: "stem.parametrizations.weight.original",
    hook_on_gate: "stem.parametrizations.weight.0",
    hook_on_optimizer: "the optimizer",
}


@pytest.mark.parametrize("leave", HOOKS)
def test_a_hook_that_is_left_is_found(run, leave):
    """A hook on a module, a gate, a parameter or the optimizer is named at the next step."""
    run.integrity.check_step(0)
    leave(run)
    with pytest.raises(AuditError, match=f"it left a hook on {HOOKS[leave]}"):
        run.integrity.check_step(0)


def test_a_changed_setting_is_found(run):
    """A setting of the process that changed during the training is named; it is restored here, not by the check."""
    run.integrity.check_settings()
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(AuditError, match="it changed torch's treatment of denormal numbers during"):
            run.integrity.check_settings()
    finally:
        torch.set_flush_denormal(False)


def test_a_gate_that_differs_between_modes_is_found(run):
    """A gate that gives another weight in training than in evaluation is named; modes are restored."""

    class Different(Mask):
        def forward(self, weight):
            return weight if self.training else super().forward(weight)

    check_same_in_both_modes("mine", run.layers)
    gate = run.layers[1].gate
    gate.set(torch.zeros_like(gate.keep))
    gate.__class__ = Different
    training = gate.training
    with pytest.raises(AuditError, match="the gate of layer spatial gives another weight"):
        check_same_in_both_modes("mine", run.layers)
    assert gate.training == training


def test_a_thread_that_is_left_is_found(run):
    """A thread that runs when a hook has returned is named."""
    with pytest.raises(AuditError, match="before_step left the thread 'mine' running"):
        run.hook("before_step", threading.Thread(target=time.sleep, args=(1,), name="mine").start)


@pytest.mark.parametrize("what", ["left the thread 'mine' running", "changed the working directory"])
def test_a_gate_that_changes_the_process_is_found(run, monkeypatch, tmp_path, what):
    """A thread that a gate leaves, and a working directory that it changes, are found in the same forward pass."""
    monkeypatch.chdir(tmp_path)

    class Changing(Mask):
        def forward(self, weight):
            if "thread" in what:
                threading.Thread(target=time.sleep, args=(1,), name="mine").start()
            else:
                os.chdir("/")
            return super().forward(weight)

    run.layers[0].gate.__class__ = Changing
    with pytest.raises(AuditError, match=f"a gate {what}"):
        loop.validate(run)
