"""The training loop: stops between two steps, hardening, and the checks after it."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from pruneboard.api import Mask
from pruneboard.errors import InterruptedRunError, RunError
from pruneboard.experiment import lifecycle
from pruneboard.processes import interrupts
from pruneboard.records import store
from pruneboard.training import loop
from pruneboard.training.loop import check_ranks_agree
from rank_cases import mask, on_each_rank
from resume_cases import assert_same_run, first_steps, signal_at
from runs import folder, run, tiny


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 5, 8])
def test_sigterm_saves_after_the_current_step(tmp_path, monkeypatch, step):
    """Inside an epoch, at its end and at the last step, SIGTERM ends the run after the step; resuming loses nothing."""
    run(tmp_path / "straight", "probmask")
    with monkeypatch.context() as patch:
        signal_at(patch, step)
        with pytest.raises(InterruptedRunError, match=f"saved at step {step}"):
            run(tmp_path / "stopped", "probmask")
    assert store.read(folder(tmp_path / "stopped") / "run.json")["status"] == "interrupted"
    run(tmp_path / "stopped", "probmask")
    assert first_steps(tmp_path / "stopped") == [0, step]
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    assert not (folder(tmp_path / "stopped") / "failures").exists()


def test_a_signal_during_the_last_evaluation_stops_the_run(tmp_path, monkeypatch):
    """It arrives after the last step: the run is saved with all its steps, and only the end is repeated."""
    run(tmp_path / "straight")
    received = []

    @contextmanager
    def requests(take=interrupts.listen_for_stop):
        with take() as request:
            received.append(request)
            yield request

    def validate(training, original=loop.validate):
        received[-1].number = signal.SIGTERM if training.state.step == 8 else 0
        return original(training)

    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "listen_for_stop", requests)
        patch.setattr(loop, "validate", validate)
        with pytest.raises(InterruptedRunError, match="saved at step 8"):
            run(tmp_path / "stopped")
    run(tmp_path / "stopped")
    assert first_steps(tmp_path / "stopped") == [0, 8]
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_a_gate_that_changes_after_hardening_fails_the_run(site, tmp_path):
    """A buffer that moves in training mode is found by the comparison of gate bits."""
    source = """
    from dataclasses import dataclass
    import torch
    from pruneboard.api import Gate, Pruner, Traits

    class Moving(Gate):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, weight):
            if self.training:
                self.calls += 1
            return weight

        def kept(self, weight):
            return torch.ones_like(weight, dtype=torch.bool)

    @dataclass(frozen=True, kw_only=True)
    class Thing(Pruner):
        def gate(self, weight):
            return Moving()

        def traits(self, track):
            return Traits(harden_at=0.5)
    """
    site.add("moving", source)
    with pytest.raises(RunError, match="a gate changed during the evaluation after hardening"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))


def test_validate_is_valid_only_during_harden(site, tmp_path):
    """A method that keeps `validate` gets an error when it calls it after `harden` has returned."""
    source = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    KEPT = []

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def traits(self, track):
            return Traits(harden_at=0.5)

        def harden(self, layers, at, validate):
            assert 0 <= validate() <= 1
            KEPT.append(validate)

        def diagnostics(self, layers, at):
            return {"top1": KEPT[0]()} if KEPT else {}
    """
    site.add("keeps", source)
    with pytest.raises(RunError, match="failed in diagnostics: RuntimeError: hardening is over"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))


def test_masks_that_differ_raise_on_every_process():
    """If masks differ between processes, each of them raises an AuditError with method, tensor and step."""

    def check(engine, rank):
        gate = Mask(torch.ones(10))
        gate.set(mask(1, 5 + rank))
        engine.model = torch.nn.Linear(1, 1)
        engine.model.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        layers = [SimpleNamespace(name="fc", gate=gate)]
        check_ranks_agree(SimpleNamespace(engine=engine, method="drifting", layers=layers), 7)

    for error in on_each_rank(check):
        assert str(error) == "method drifting: tensor fc/keep differs between processes at step 7"
