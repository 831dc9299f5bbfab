"""The steps of a run, for real: finished, repeated, forced, failed and interrupted runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import pruneboard
import pruneboard.models  # registers the networks of the ProbMask paper with timm
from pruneboard.errors import AuditError, DivergedError, PluginError, RunError
from pruneboard.experiment import lifecycle, listeners, outcome
from pruneboard.processes.launch import LocalProcesses
from pruneboard.records import schema, store
from pruneboard.training import loop, process_state
from resume_cases import first_steps
from runs import TWO_PROCESSES, folder, ready_job, run, tiny


@pytest.mark.parametrize("method", ["probmask", "dense"])
def test_two_runs_of_one_spec_are_equal(tmp_path, method):
    """Two runs of the same spec have the same weights hash, the same metrics file and the same canonical record."""
    sparsity = None if method == "dense" else 0.9
    first, second = (run(tmp_path / name, method, sparsity) for name in "ab")
    assert first["weights_sha256"] == second["weights_sha256"]
    assert schema.canonical(first) == schema.canonical(second)
    a, b = ((folder(tmp_path / name) / "metrics.jsonl").read_text() for name in "ab")
    assert a == b
    assert len(a.splitlines()) == 2


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_zero_sparsity_is_the_dense_run_bit_for_bit(tmp_path, model):
    """With gates attached and nothing to prune, parameters and buffers are those of the dense run, to the last bit."""
    dense = run(tmp_path / "dense", "dense", None, model=model)
    gated = run(tmp_path / "gated", "probmask", 0.0, model=model)
    assert gated["weights_sha256"] == dense["weights_sha256"]
    assert gated["metrics"] == dense["metrics"] | {"best_validation": gated["metrics"]["best_validation"]}


def test_a_finished_run_is_not_repeated(tmp_path):
    """The same spec returns the existing record; another option is another run."""
    first = run(tmp_path)
    assert run(tmp_path) == first
    assert run(tmp_path, options={"prune_at": 0.25})["hash"] != first["hash"]


def test_a_forced_run_keeps_the_old_record(tmp_path):
    """With `force` the run is repeated, and the replaced record stays in superseded/."""
    first = run(tmp_path)
    run(tmp_path, force=True)
    old = json.loads((folder(tmp_path) / "superseded" / "01.json").read_text())
    assert old == first


def test_training_changes_no_global_state(tmp_path):
    """A run leaves torch's random state and gradient mode as they were."""
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_run_and_compare_from_python(tmp_path):
    """`pruneboard.run` returns the record, and `pruneboard.compare` the board that it is on."""
    made = pruneboard.run(tiny(tmp_path))
    (board,) = pruneboard.compare(tmp_path)
    assert board.fingerprint == made["board"]["fingerprint"]


def test_a_diverged_run_is_recorded_and_can_be_repeated(tmp_path):
    """A loss that is not finite leaves a record with status `diverged`; the next attempt moves it to failures/."""
    spec = tiny(tmp_path, overrides={"lr": 1e38, "clip": 0.0})
    for _ in range(2):
        with pytest.raises(DivergedError, match="lower the learning rate"):
            lifecycle.run(spec)
    made = json.loads((folder(tmp_path) / "run.json").read_text())
    assert made["status"] == "diverged"
    assert "--lr" in made["error"]["message"]
    assert (folder(tmp_path) / "failures" / "01.json").exists()
    assert not (folder(tmp_path) / "model.safetensors").exists()


def test_any_error_in_a_run_is_recorded(tmp_path, monkeypatch):
    """An unexpected error leaves a failed record without the user's paths, and a traceback in log.txt."""
    from pruneboard.training import loop

    def broken(*arguments):
        raise KeyError(f"surprise in {tmp_path}/x")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(RunError, match="surprise"):
        run(tmp_path)
    made = json.loads((folder(tmp_path) / "run.json").read_text())
    assert made["status"] == "failed"
    assert "surprise in RESULTS/x" in made["error"]["message"]
    assert "Traceback" in (folder(tmp_path) / "log.txt").read_text()


def test_a_failed_run_keeps_its_checkpoint_and_its_record(tmp_path, monkeypatch):
    """After an error of a plugin, the next attempt resumes from the checkpoint and moves the record to failures/."""
    whole = loop.train_step

    def fails(run, step, batches):
        if step == 6:
            raise RunError("method broke")
        return whole(run, step, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", fails)
        with pytest.raises(RunError, match="method broke"):
            run(tmp_path)
    run(tmp_path)
    assert first_steps(tmp_path) == [0, 4]
    assert store.read(folder(tmp_path) / "failures" / "01.json")["status"] == "failed"


FAULTS = {
    "a hook that raises": ("def before_step(self, layers, at): raise KeyError('mine')", "before_step: KeyError"),
    "a mask that moves late": (
        "def before_step(self, layers, at): layers[0].gate.keep.fill_(1 if at.step else 0)",
        "positions are kept where the budget is",
    ),
    "a false count": ("def before_step(self, layers, at): layers[0].gate.keep.zero_()", "positions are kept"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_plugin_fails_its_run(site, tmp_path, fault):
    """A plugin that raises or misses its budget ends in a RunError with the reason, and a record of the failure."""
    body, expected = FAULTS[fault]
    source = f"""
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        {body}
    """
    site.add("faulty", source)
    with pytest.raises(RunError, match=expected):
        lifecycle.run(tiny(tmp_path, "thing"))
    (file,) = tmp_path.rglob("run.json")
    assert json.loads(file.read_text())["status"] in {"failed", "invalid"}


ENDS = {
    "sys.exit": ("sys.exit(0)", "failed in before_step: SystemExit: 0"),
    "os._exit": ("os._exit(0)", r"failed in before_step: RuntimeError: os\._exit\(0\) was called"),
    "GeneratorExit": ("raise GeneratorExit", "failed in before_step: GeneratorExit"),
    "a class of its own": ("raise type('Mine', (BaseException,), {})('gone')", "failed in before_step: Mine: gone"),
    "an interruption": (
        "raise errors.InterruptedRunError('later')",
        "failed in before_step: InterruptedRunError: later",
    ),
}


@pytest.mark.parametrize("way", ENDS)
def test_whatever_ends_a_method_early_is_a_failed_run(site, tmp_path, way):
    """Every exception of a hook but Ctrl-C, and `os._exit`, give a RunError and a record with status `failed`."""
    body, expected = ENDS[way]
    source = f"""
    import os, sys
    from dataclasses import dataclass
    from pruneboard import errors
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            {body}
    """
    site.add("ends", source)
    with pytest.raises(RunError, match=expected):
        lifecycle.run(tiny(tmp_path, "thing"))
    assert store.read(folder(tmp_path) / "run.json")["status"] == "failed"


@pytest.mark.parametrize("body", ["sys.exit(0)", "os._exit(0)"])
def test_a_gate_that_ends_the_process_fails_the_run(site, tmp_path, body):
    """The same holds outside of hooks, in the forward pass of a gate."""
    source = f"""
    import os, sys
    from dataclasses import dataclass
    from pruneboard.api import Mask, MaskPruner

    class Ending(Mask):
        def forward(self, weight):
            if self.training:
                {body}
            return super().forward(weight)

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def gate(self, weight):
            return Ending(weight)
    """
    site.add("ends", source)
    with pytest.raises(RunError, match=r"SystemExit: 0|os\._exit"):
        lifecycle.run(tiny(tmp_path, "thing"))
    assert store.read(folder(tmp_path) / "run.json")["status"] == "failed"


@pytest.mark.parametrize("body", ["sys.exit(0)", "os._exit(0)", "1 / 0"])
def test_traits_that_raise_are_refused(site, tmp_path, body):
    """A method whose traits end the process or raise is refused before anything is written."""
    source = f"""
    import os, sys
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def traits(self, track):
            {body}
    """
    site.add("ends", source)
    with pytest.raises(PluginError, match="failed in traits"):
        lifecycle.run(tiny(tmp_path / "results", "thing"))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("failing", ["raise ValueError('far away')", "pass"])
def test_a_method_that_changes_the_working_directory_moves_no_record(site, tmp_path, monkeypatch, failing):
    """Its run fails, and relative paths are those of the directory in which it was started, which is restored."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (started := tmp_path / "started").mkdir()
    monkeypatch.chdir(started)
    source = f"""
    import os
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            os.chdir({str(elsewhere)!r})
            {failing}
    """
    site.add("moves", source)
    with pytest.raises(RunError, match=r"before_step changed the working directory|far away"):
        lifecycle.run(tiny("results", "thing"))
    assert store.read(folder(started / "results") / "run.json")["status"] in {"failed", "invalid"}
    assert not list(elsewhere.iterdir())
    assert Path.cwd() == started


IMPORTS = {
    "os.chdir('/')": "changed the working directory",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)": "changed the signal handlers",
    "torch.set_flush_denormal(True)": "changed torch's treatment of denormal numbers",
    "loop.validate = print": r"replaced pruneboard\.training\.loop\.validate",
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_a_method_that_changes_the_process_when_it_is_imported_is_refused(site, tmp_path, statement):
    """Nothing is written, and what was changed is restored."""
    source = f"""
    import os, signal, torch
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner
    from pruneboard.training import loop

    {statement}

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            pass
    """
    site.add("changes", source)
    before, original = process_state.settings(), loop.validate
    with pytest.raises(PluginError, match=IMPORTS[statement]):
        lifecycle.run(tiny(tmp_path / "results", "thing"))
    assert not (tmp_path / "results").exists()
    assert process_state.change(before) is None
    assert loop.validate is original


def test_a_replaced_function_of_the_harness_fails_the_run(site, tmp_path):
    """A hook that replaces a function of the harness makes the run invalid, and the function is restored."""
    source = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner
    from pruneboard.training import loop

    real = loop.validate

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            loop.validate = lambda run: real(run)
    """
    site.add("replaces", source)
    original = loop.validate
    with pytest.raises(AuditError, match=r"replaced pruneboard\.training\.loop\.validate"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))
    assert loop.validate is original
    assert store.read(folder(tmp_path) / "run.json")["status"] == "invalid"


def test_a_record_that_the_store_refuses_is_a_failed_run(tmp_path, monkeypatch):
    """A finished record that is invalid is not an error of the user's: the run fails and leaves a record."""
    finished = outcome.finished_record
    monkeypatch.setattr(outcome, "finished_record", lambda job, run: finished(job, run) | {"seed": "none"})
    with pytest.raises(RunError, match="seed must be"):
        run(tmp_path)
    assert store.read(folder(tmp_path) / "run.json")["status"] == "failed"


def fails_on_rank_1(job):
    """Carry out `job`; on rank 1 the forward pass raises, outside of any hook of the method."""

    def fails(run, batches, passes):
        raise ZeroDivisionError("in the network")

    if os.environ["RANK"] == "1":
        loop._forward_backward = fails
    return lifecycle.execute_safely(job, listeners.NullListener())


def test_an_error_on_rank_1_names_the_log_of_rank_1(tmp_path):
    """An error on one process has its traceback in that process's own log, and the message names the file."""
    job = ready_job(tmp_path, **TWO_PROCESSES)
    with pytest.raises(RunError, match=r"ZeroDivisionError: in the network; the traceback is in the run's log\.rank1"):
        LocalProcesses(fails_on_rank_1, (job,), 2).result()
    assert "Traceback" in (job.folder / "log.rank1.txt").read_text()
