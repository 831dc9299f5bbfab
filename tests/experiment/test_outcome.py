"""What a record claims about a finished run is what its saved file contains."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch

from pruneboard.data import BatchPlan, eval_batches
from pruneboard.experiment.prepare import prepare
from runs import folder, run, tiny

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
    """Exactly n - round(s n) positions are kept, and a recount of the file without pruneboard agrees with the record.

    The contract (tests/testing) checks the exact count of every method at several sparsities.
    """
    sparsity = 0.98
    found = run(tmp_path, method, sparsity)["sparsity"]
    done = subprocess.run([sys.executable, "-c", RECOUNT, folder(tmp_path)], capture_output=True, text=True, check=True)
    n, nonzero, harness_modules = json.loads(done.stdout)
    assert harness_modules == []
    assert (n, nonzero) == (found["prunable"], found["nonzero"])
    assert found["kept"] == n - round(sparsity * n)
    assert 0 <= found["kept_zero"] <= 1e-4 * found["kept"]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", pytest.param("resnet20_cifar", marks=pytest.mark.slow)])
def test_the_saved_file_reproduces_the_accuracy(tmp_path, model):
    """The saved file, loaded strictly into a plain timm model, classifies exactly as many test images correctly."""
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


def test_cost_counts_every_forward_pass(tmp_path):
    """Training multiply-adds are 3 x dense x images x passes, and dense x images for each validation while hardening.

    For magnitude pruning, which does not validate, they are those of dense training.
    """
    probmask, magnitude = run(tmp_path, "probmask"), run(tmp_path)
    dense, budget = magnitude["cost"]["macs_dense"], probmask["budget"]
    assert magnitude["cost"]["train_macs"] == 3 * dense * 32 * 8 == magnitude["cost"]["dense_train_macs"]
    passes = 2 * budget["harden_step"] + budget["steps"] - budget["harden_step"]
    validated = probmask["cost"]["validations"] * (16 * 32 + probmask["data"]["validation"])
    assert probmask["cost"]["train_macs"] == dense * (3 * 32 * passes + validated)
    assert validated > 0
    assert budget["harden_step"] == round(0.9375 * 8)


def test_each_run_of_a_process_has_its_own_peak_memory(tmp_path):
    """Memory used earlier in the process, by other code or other runs, is not in a record."""
    block = torch.ones(128 * 2**20)
    large = run(tmp_path, seed=0)["cost"]["peak_memory_bytes"]
    size = block.nbytes
    del block
    small = run(tmp_path, seed=1)["cost"]["peak_memory_bytes"]
    assert small < large - size / 2


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    """Autocast changes the result and the board, but weights are saved in float32."""
    plain, mixed = run(tmp_path / "a"), run(tmp_path / "b", precision="bf16")
    assert mixed["weights_sha256"] != plain["weights_sha256"]
    state = safetensors.torch.load_file(folder(tmp_path / "b") / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert mixed["board"]["fingerprint"] != plain["board"]["fingerprint"]


def test_a_record_has_a_digest_of_the_methods_code(site, tmp_path):
    """Two files with the same version number give records that differ in the digest, and not in the content hash."""
    module = site.add("stranger").partition(":")[0]
    one = run(tmp_path / "one", "thing", 0.0)
    path = site.folder / f"{module}.py"
    path.write_text(path.read_text() + "# other code, same version")
    two = run(tmp_path / "two", "thing", 0.0)
    assert one["hash"] == two["hash"]
    assert one["software"]["code"]["pruneboard"] == two["software"]["code"]["pruneboard"]
    assert one["software"]["code"]["method"] != two["software"]["code"]["method"]
