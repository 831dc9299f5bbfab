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
from resume_cases import attempts, check_equal, stop
from runs import folder, run, tiny


@pytest.mark.parametrize("step", [4, 5, 8])
def test_a_stop_is_saved_at_its_step(tmp_path, monkeypatch, step):
    """Whether within an epoch, at its end or at the last step, SIGTERM finishes the step, saves, and costs nothing."""
    run(tmp_path / "straight", "probmask")
    with monkeypatch.context() as patch:
        stop(patch, step)
        with pytest.raises(InterruptedRunError, match=f"saved at step {step}"):
            run(tmp_path / "stopped", "probmask")
    assert store.read(folder(tmp_path / "stopped") / "run.json")["status"] == "interrupted"
    run(tmp_path / "stopped", "probmask")
    assert attempts(tmp_path / "stopped") == [0, step]
    check_equal(tmp_path / "straight", tmp_path / "stopped")
    assert not (folder(tmp_path / "stopped") / "failures").exists()


def test_a_stop_during_the_last_evaluation_is_heard(tmp_path, monkeypatch):
    """It comes after the last step; the run is saved with all its steps, and only its end is left to do."""
    run(tmp_path / "straight")
    heard = []

    @contextmanager
    def requests(take=interrupts.requests):
        with take() as request:
            heard.append(request)
            yield request

    def validate(training, original=loop.validate):
        heard[-1].number = signal.SIGTERM if training.state.step == 8 else 0
        return original(training)

    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requests", requests)
        patch.setattr(loop, "validate", validate)
        with pytest.raises(InterruptedRunError, match="saved at step 8"):
            run(tmp_path / "stopped")
    run(tmp_path / "stopped")
    assert attempts(tmp_path / "stopped") == [0, 8]
    check_equal(tmp_path / "straight", tmp_path / "stopped")


def test_a_gate_that_changes_after_hardening_is_caught(site, tmp_path):
    """A gate with state that moves in training mode breaks the promise of `harden`, and the run fails."""
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
    with pytest.raises(RunError, match="changed after hardening"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))


def test_validation_is_lent_to_harden_only(site, tmp_path):
    """A method that keeps `validate` cannot select by it once `harden` has returned."""
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


def test_a_run_whose_masks_differ_is_stopped_on_every_process():
    """Masks that are not the same everywhere are an AuditError that names method, tensor and step."""

    def check(engine, rank):
        gate = Mask(torch.ones(10))
        gate.set(mask(1, 5 + rank))
        engine.model = torch.nn.Linear(1, 1)
        engine.model.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        layers = [SimpleNamespace(name="fc", gate=gate)]
        check_ranks_agree(SimpleNamespace(engine=engine, method="drifting", layers=layers), 7)

    for error in on_each_rank(check):
        assert str(error) == "method drifting: tensor fc/keep differs between processes at step 7"
