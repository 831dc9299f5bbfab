"""The walk of a run, for real: what a record claims is what the saved file holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch

import pruneboard
import pruneboard.models  # registers the networks of the ProbMask paper with timm
from pruneboard.data import BatchPlan, eval_batches
from pruneboard.errors import DivergedError, RunError
from pruneboard.experiment import lifecycle
from pruneboard.experiment.prepare import prepare
from pruneboard.records import schema
from runs import folder, run, tiny

METHODS = ["magnitude", "probmask", "synflow"]
"""One of each kind; what every method has to keep is tried by the contract suite (tests/testing)."""

RECOUNT = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
run = Path(sys.argv[1])
record = json.loads((run / "run.json").read_text())
weights = load_file(run / "model.safetensors")
layers = record["sparsity"]["layers"]
nonzero = sum(int((weights[layer["name"] + ".weight"] != 0).sum()) for layer in layers)
n = sum(weights[layer["name"] + ".weight"].numel() for layer in layers)
print(json.dumps([n, nonzero, [m for m in sys.modules if m.startswith("pruneboard")]]))
"""


@pytest.mark.parametrize("method", ["probmask", "str"])
def test_kept_positions_and_non_zeros_are_exact(tmp_path, method):
    """Exactly n - round(s n) positions are kept, and a stranger's recount of the file gives the record's number.

    That every method keeps the exact number, at several sparsities, is a rule of the contract (tests/testing).
    """
    sparsity = 0.98
    found = run(tmp_path, method, sparsity)["sparsity"]
    done = subprocess.run([sys.executable, "-c", RECOUNT, folder(tmp_path)], capture_output=True, text=True, check=True)
    n, nonzero, ours = json.loads(done.stdout)
    assert ours == []
    assert (n, nonzero) == (found["prunable"], found["nonzero"])
    assert found["kept"] == n - round(sparsity * n)
    assert 0 <= found["kept_zero"] <= 1e-4 * found["kept"]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", pytest.param("resnet20_cifar", marks=pytest.mark.slow)])
def test_folded_model_reproduces_the_accuracy(tmp_path, model):
    """The saved file, loaded strictly into a plain timm model, classifies exactly as many images right."""
    made = run(tmp_path, "probmask", model=model)
    plain = timm.create_model(made["model"]["load_as"], **made["model"]["create_args"])
    plain.load_state_dict(safetensors.torch.load_file(folder(tmp_path) / "model.safetensors"), strict=True)
    plain.eval()
    _, data = prepare(tiny(tmp_path, "probmask", model=model))
    batches = eval_batches(data.test, data, BatchPlan.for_evaluation(50, torch.device("cpu")))
    with torch.no_grad():
        correct = sum(int((plain(images).argmax(1) == labels).sum()) for images, labels in batches)
    assert correct == made["metrics"]["test"]["correct"]
    assert made["metrics"]["test"]["count"] == len(data.test)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_zero_sparsity_is_the_dense_run_bit_for_bit(tmp_path, model):
    """With gates attached and nothing to prune, parameters and buffers end as the dense run's, to the last bit."""
    dense = run(tmp_path / "dense", "dense", None, model=model)
    gated = run(tmp_path / "gated", "probmask", 0.0, model=model)
    assert gated["weights_sha256"] == dense["weights_sha256"]
    assert gated["metrics"] == dense["metrics"] | {"best_validation": gated["metrics"]["best_validation"]}


@pytest.mark.parametrize("method", ["probmask", "dense"])
def test_two_runs_of_one_spec_are_equal(tmp_path, method):
    """The same spec twice gives the same weights hash, the same metrics file and the same canonical record."""
    sparsity = None if method == "dense" else 0.9
    first, second = (run(tmp_path / name, method, sparsity) for name in "ab")
    assert first["weights_sha256"] == second["weights_sha256"]
    assert schema.canonical(first) == schema.canonical(second)
    a, b = ((folder(tmp_path / name) / "metrics.jsonl").read_text() for name in "ab")
    assert a == b
    assert len(a.splitlines()) == 2


def test_all_methods_start_alike(tmp_path):
    """Methods share the initial weights, split and image order of a seed; another seed has others."""
    keys = [("model", "initial_sha256"), ("data", "split_sha256"), ("data", "order_sha256")]
    made = [run(tmp_path, method) for method in METHODS]
    other = run(tmp_path, seed=1)
    for block, name in keys:
        values = [found[block][name] for found in made]
        assert values == [values[0]] * len(METHODS)
        assert other[block][name] != values[0]
    assert len({found["board"]["fingerprint"] for found in [*made, other]}) == 1


def test_finished_run_is_not_repeated(tmp_path):
    """The same spec again returns the record that is there; another option is another run."""
    first = run(tmp_path)
    assert run(tmp_path) == first
    assert run(tmp_path, options={"prune_at": 0.25})["hash"] != first["hash"]


def test_forced_run_keeps_the_old_record(tmp_path):
    """With force the run is repeated, and the record it replaces stays in superseded/."""
    first = run(tmp_path)
    run(tmp_path, force=True)
    old = json.loads((folder(tmp_path) / "superseded" / "01.json").read_text())
    assert old == first


def test_diverged_run_is_a_record_and_is_tried_anew(tmp_path):
    """A run whose loss is not finite leaves a record that says so; the next try moves it to failures/."""
    spec = tiny(tmp_path, overrides={"lr": 1e38, "clip": 0.0})
    for _ in range(2):
        with pytest.raises(DivergedError, match="lower the learning rate"):
            lifecycle.run(spec)
    made = json.loads((folder(tmp_path) / "run.json").read_text())
    assert made["status"] == "diverged"
    assert "--lr" in made["error"]["message"]
    assert (folder(tmp_path) / "failures" / "01.json").exists()
    assert not (folder(tmp_path) / "model.safetensors").exists()


def test_each_run_of_a_process_has_its_own_peak_memory(tmp_path):
    """Neither what was used before it nor what an earlier run needed is in its record."""
    block = torch.ones(128 * 2**20)
    large = run(tmp_path, seed=0)["cost"]["peak_memory_bytes"]
    size = block.nbytes
    del block
    small = run(tmp_path, seed=1)["cost"]["peak_memory_bytes"]
    assert small < large - size / 2


def test_training_changes_no_global_state(tmp_path):
    """A run leaves torch's random state and grad mode as it found them."""
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_cost_counts_every_forward_pass(tmp_path):
    """Training multiply-adds are 3 x dense x images x passes; magnitude's are the dense run's."""
    probmask, magnitude = run(tmp_path, "probmask"), run(tmp_path)
    dense, budget = magnitude["cost"]["macs_dense"], probmask["budget"]
    assert magnitude["cost"]["train_macs"] == 3 * dense * 32 * 8 == magnitude["cost"]["dense_train_macs"]
    passes = 2 * budget["harden_step"] + budget["steps"] - budget["harden_step"]
    assert probmask["cost"]["train_macs"] == 3 * dense * 32 * passes
    assert budget["harden_step"] == round(0.9375 * 8)


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    """Autocast changes the result, not the precision of what is saved; it makes a board of its own."""
    plain, mixed = run(tmp_path / "a"), run(tmp_path / "b", precision="bf16")
    assert mixed["weights_sha256"] != plain["weights_sha256"]
    state = safetensors.torch.load_file(folder(tmp_path / "b") / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert mixed["board"]["fingerprint"] != plain["board"]["fingerprint"]


@pytest.mark.parametrize(("method", "zero"), [("probmask", 1), ("probmask", 2), ("str", 1)])
def test_zero_stages_train_alike(tmp_path, method, zero):
    """ZeRO 1 and 2 follow stage 0 step by step: what hooks assign survives the next optimizer step there."""
    # Adam turns the sign of a gradient of any size into a full step, so rounding shows at a fast score rate.
    options = {"travel": 0} if method == "probmask" else {}
    plain = run(tmp_path / "a", method, options=options)
    sharded = run(tmp_path / "b", method, options=options, zero=zero)
    assert sharded["sparsity"]["kept"] == plain["sparsity"]["kept"]
    a, b = ((folder(tmp_path / name) / "metrics.jsonl").read_text().splitlines() for name in "ab")
    for one, other in zip(map(json.loads, a), map(json.loads, b), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["sparsity"] == pytest.approx(one["sparsity"], abs=1e-3)
        assert other["diagnostics"] == pytest.approx(one["diagnostics"], rel=1e-3)


def test_initial_weights_from_a_file(tmp_path):
    """`--init FILE` starts from exactly those weights, named in the record by content and not by path."""
    run(tmp_path / "first", "dense", None)
    file = folder(tmp_path / "first") / "model.safetensors"
    made = run(tmp_path / "second", init=str(file))
    held = safetensors.torch.load_file(file)
    assert made["model"]["initial_sha256"] == pruneboard.models.state_sha256(held)
    assert str(tmp_path) not in json.dumps(made)


def test_tensorboard_events(tmp_path):
    """With `tensorboard` the run's folder holds event files with one value per epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(folder(tmp_path) / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("validation/top1")) == 2


def test_python_in_three_lines(tmp_path):
    """`pruneboard.run` returns the record and `pruneboard.compare` the boards it stands on."""
    made = pruneboard.run(tiny(tmp_path))
    (board,) = pruneboard.compare(tmp_path)
    assert board.fingerprint == made["board"]["fingerprint"]


def test_error_in_the_engine_is_a_failed_row(tmp_path, monkeypatch):
    """Whatever breaks inside a run leaves a failed record without the user's paths, and the traceback in log.txt."""
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


def test_a_record_holds_a_digest_of_the_methods_code(site, tmp_path):
    """Two versions of a file under one version number leave records that differ in it, and not in their hash."""
    module = site.add("stranger").partition(":")[0]
    one = run(tmp_path / "one", "thing", 0.0)
    path = site.folder / f"{module}.py"
    path.write_text(path.read_text() + "# other code, same version")
    two = run(tmp_path / "two", "thing", 0.0)
    assert one["hash"] == two["hash"]
    assert one["software"]["code"]["pruneboard"] == two["software"]["code"]["pruneboard"]
    assert one["software"]["code"]["method"] != two["software"]["code"]["method"]
