"""Export and latency accept only a finished run whose record, masks and weights agree."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import verify_cases as cases
from pruneboard.artifacts import finished_run
from pruneboard.cli import invoke
from pruneboard.records import store
from verify_cases import copied, edit, rehash


@pytest.fixture
def one(tiny_run, tmp_path):
    """A copy of a tiny run."""
    return copied(tiny_run(), tmp_path / "run")


def test_the_network_has_the_runs_weights(tiny_run):
    """The loaded network is in evaluation mode, and every tensor and prunable weight is that of the run."""
    folder, record = finished_run.find(tiny_run(), "exported")
    loaded = finished_run.load(folder, record, "exported")
    state = load_file(folder / store.WEIGHTS)
    assert not loaded.network.training
    assert loaded.network.state_dict().keys() == loaded.state.keys() == state.keys()
    assert all(torch.equal(loaded.network.state_dict()[name], tensor) for name, tensor in state.items())
    nonzero = sum(int((loaded.state[name] != 0).sum()) for name in loaded.weights)
    assert nonzero == record["sparsity"]["nonzero"]


def test_the_folder_and_its_record_find_the_same_run(tiny_run):
    """A run may be given as its folder or as its `run.json`."""
    folder = tiny_run()
    assert finished_run.find(folder, "measured") == finished_run.find(folder / store.RUN, "measured")
    assert finished_run.find(folder, "measured")[0] == folder


def without(name):
    """Return a function that removes a file of the run."""
    return lambda folder: (folder / name).unlink()


def changed(name, text):
    """Return a function that replaces the content of a file of the run."""
    return lambda folder: (folder / name).write_text(text)


def claimed(**values):
    """Return a function that edits the record, and its hash and fingerprint to match."""

    def change(folder):
        edit(folder, **values)
        rehash(folder)

    return change


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (without(store.RUN), 4, "no record at"),
        (changed(store.RUN, "{"), 2, "is not JSON"),
        (changed(store.RUN, "{}"), 2, "schema is missing"),
        (lambda folder: edit(folder, status="failed"), 2, "has status failed"),
        (without(store.WEIGHTS), 2, "there is no model.safetensors"),
        (changed(store.WEIGHTS, "no tensors"), 2, "is not a safetensors file"),
        (lambda folder: cases.set_weights(folder, cases.double), 3, "weights.hash"),
        (lambda folder: edit(folder, seed=7), 3, "record.hash"),
        (without(store.MASK), 0, ""),
        (claimed(data__mean=[0.1, 0.2]), 2, "data.mean must be three numbers"),
        (claimed(data__std=[0.0, 1.0, 1.0]), 2, "data.std must be a list of positive numbers"),
        (claimed(data__std=None), 2, "lacks data.std: repeat the run"),
        (claimed(model__name="../../etc\x1b[31m"), 2, "unknown model"),
        (claimed(model__load_as="hf-hub:someone/pickle"), 3, "model.load_as"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_unusable_run_is_refused_in_one_line(one, capsys, spoil, code, message):
    """An unreadable, unfinished, disputed or hostile run gives one line that names it, and nothing is written."""
    spoil(one)
    assert invoke(["export", str(one), "--format", "safetensors"]) == code
    error = capsys.readouterr().err
    assert message in error
    if code:
        assert error.count("\n") == 1
        assert "\x1b" not in error
        assert not (one / "export").exists()
