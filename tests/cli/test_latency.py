"""`pruneboard latency`: options, messages and exit codes."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from pruneboard.artifacts.latency import engines
from pruneboard.cli import invoke
from pruneboard.records import store
from verify_cases import copied, edit

QUICK = ["--rounds", "1", "--warmup", "0", "--batch", "1", "--batch", "3"]


@pytest.fixture
def one(tiny_run, tmp_path):
    """A copy of a tiny run."""
    return copied(tiny_run(sparsity=0.8), tmp_path / "run")


def test_only_the_file_given_by_out_is_written(one, tmp_path, capsys):
    """The run's folder is unchanged; `--out` gets what `--json` prints, and is never overwritten."""
    before = {path.name: path.stat().st_mtime_ns for path in one.iterdir()}
    out = tmp_path / "new" / "times.json"
    command = ["latency", str(one), *QUICK, "--engine", "torch-csr", "--out", str(out), "--json"]
    assert invoke(command) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert json.loads(out.read_text())["settings"]["batches"] == [1, 3]
    assert invoke(command) == 2
    assert "already exists" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in one.iterdir()} == before


def test_other_logits_are_an_error_and_no_number(one, capsys, monkeypatch):
    """If an engine does not compute the run's network, the exit code is 3 and nothing is printed."""

    def wrong(inputs):
        return engines.Engine("scipy-csr", lambda images: inputs.run.network(images) + 0.5, "wrong")

    monkeypatch.setitem(engines._BUILDERS, "scipy-csr", wrong)
    assert invoke(["latency", str(one), *QUICK, "--engine", "scipy-csr"]) == 3
    printed = capsys.readouterr()
    assert "engine scipy-csr was not timed" in printed.err
    assert not printed.out


def test_a_missing_package_is_named(one, capsys, monkeypatch):
    """If ONNX Runtime is requested, the error names the extra to install; if not, its note does."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert invoke(["latency", str(one), *QUICK, "--engine", "onnxruntime"]) == 2
    assert "pip install 'pruneboard[onnx]'" in capsys.readouterr().err
    assert invoke(["latency", str(one), *QUICK]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("onnxruntime")]
    assert line.startswith("onnxruntime: not measured: ")
    assert "pip install 'pruneboard[onnx]'" in line


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "message"),
    [
        (lambda folder: (folder / store.RUN).unlink(), [], 4, "no record at"),
        (lambda folder: edit(folder, status="failed"), [], 2, "only a finished run can be measured"),
        (lambda folder: (folder / store.WEIGHTS).unlink(), [], 2, "a record alone cannot be measured"),
        (lambda folder: edit(folder, seed=7), [], 3, "is disputed and is not measured"),
        (None, ["--engine", "torch-crs"], 2, "did you mean torch-csr"),
        (None, ["--engine", "torch-2:4"], 2, "two zeros in every four"),
        (None, ["--batch", "0"], 2, "batch"),
        (None, ["--device", "tpu"], 2, "device"),
        pytest.param(
            *(None, ["--device", "cuda"], 2, "--device cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(one, capsys, spoil, arguments, code, message):
    """An unfinished or disputed run, missing weights, and an impossible option each give one error that names it."""
    if spoil:
        spoil(one)
    assert invoke(["latency", str(one), *QUICK, *arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out


def test_an_engine_that_fails_is_named(one, capsys, monkeypatch):
    """If memory is short, the exit code is 2 and the error names the engine and the batch size."""

    def failing(inputs):
        def call(images):
            raise RuntimeError("not enough memory")

        return engines.Engine("torch-csr", call, "failing")

    monkeypatch.setitem(engines._BUILDERS, "torch-csr", failing)
    assert invoke(["latency", str(one), *QUICK, "--engine", "torch-csr"]) == 2
    assert "engine torch-csr fails at batch 1 (RuntimeError: not enough memory)" in capsys.readouterr().err
