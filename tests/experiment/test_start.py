"""How a run starts: initial weights, data and the identity of its checkpoints."""

from __future__ import annotations

import json

import pytest
import safetensors.torch

import pruneboard
import pruneboard.models  # registers the networks of the ProbMask paper with timm
import runs
from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.experiment import start
from resume_cases import signal_at
from runs import folder, run

METHODS = ["magnitude", "probmask", "synflow"]
"""One method of each kind; the contract suite (tests/testing) tests every method."""


def test_all_methods_start_alike(tmp_path):
    """For one seed, all methods have the same initial weights, split and image order; another seed has others."""
    keys = [("model", "initial_sha256"), ("data", "split_sha256"), ("data", "order_sha256")]
    made = [run(tmp_path, method) for method in METHODS]
    other = run(tmp_path, seed=1)
    for block, name in keys:
        values = [found[block][name] for found in made]
        assert values == [values[0]] * len(METHODS)
        assert other[block][name] != values[0]
    assert len({found["board"]["fingerprint"] for found in [*made, other]}) == 1


def test_initial_weights_from_a_file(tmp_path):
    """`--init FILE` starts from exactly those weights; the record identifies the file by content, not by path."""
    run(tmp_path / "first", "dense", None)
    file = folder(tmp_path / "first") / "model.safetensors"
    made = run(tmp_path / "second", init=str(file))
    held = safetensors.torch.load_file(file)
    assert made["model"]["initial_sha256"] == pruneboard.models.state_sha256(held)
    assert str(tmp_path) not in json.dumps(made)


SUPERMASK = {"track": "supermask", "sparsity": 0.5}


@pytest.mark.parametrize("init", ["kaiming-normal", "kaiming-normal-scaled", "signed-constant-scaled"])
def test_the_board_chooses_the_initial_weights(tmp_path, init):
    """Every rule for initial weights runs, is in the record, and gives a board of its own."""
    default = runs.run(tmp_path / "default", "random", **SUPERMASK)
    record = runs.run(tmp_path / init, "random", init=init, **SUPERMASK)
    assert record["model"]["init"] == record["board"]["init"] == init
    assert record["board"]["fingerprint"] != default["board"]["fingerprint"]
    assert record["model"]["initial_sha256"] != default["model"]["initial_sha256"]


def test_a_run_is_not_resumed_under_other_code(tmp_path, monkeypatch):
    """If the method's code has changed since the checkpoint, the run is refused by name, and no file changes."""
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(InterruptedRunError):
            run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code = start.provenance.code_versions
    monkeypatch.setattr(
        start.provenance, "code_versions", lambda target: code(target) | {"code of the method": "0" * 12}
    )
    with pytest.raises(UsageError, match=r"started with code of the method .*, and it is now 000000000000: .*--force"):
        run(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
