"""`pruneboard export`: options, messages and exit codes."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from safetensors.torch import load_file

from pruneboard.artifacts.exporting import load_csr, onnx_file, safetensors_file
from pruneboard.cli import invoke
from pruneboard.records import store
from verify_cases import copied


@pytest.fixture
def one(tiny_run, tmp_path):
    """A copy of a tiny run."""
    return copied(tiny_run(), tmp_path / "run")


def test_only_force_replaces_other_content(tiny_run, one, tmp_path, capsys):
    """Repeating the command gives the same bytes and touches no file; other content stays until `--force`."""
    out, first = one / "export", tmp_path / "first"
    command = ["export", str(one), "--format", "csr,safetensors"]
    assert invoke(["export", str(tiny_run()), "--format", "safetensors", "--format", "csr", "--out", str(first)]) == 0
    assert invoke(command) == 0
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert all((out / name).read_bytes() == (first / name).read_bytes() for name in times)
    assert invoke(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    (out / load_csr.ARRAYS).write_text("mine")
    capsys.readouterr()
    assert invoke(command) == 2
    assert f"{load_csr.ARRAYS} with other content" in capsys.readouterr().err
    assert (out / load_csr.ARRAYS).read_text() == "mine"
    assert invoke([*command, "--force"]) == 0
    assert (out / load_csr.ARRAYS).read_bytes() == (first / load_csr.ARRAYS).read_bytes()
    assert sorted(times) == sorted(path.name for path in out.iterdir())


def test_the_runs_own_folder_is_refused(one, capsys):
    """`--out` must not be the folder of a run, whose weights must not change."""
    assert invoke(["export", str(one), "--out", str(one), "--force"]) == 2
    assert "folder of a run" in capsys.readouterr().err


def test_a_missing_package_is_named(one, capsys, monkeypatch):
    """If ONNX is requested, the error names the extra to install; if not, the other formats are made."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert invoke(["export", str(one), "--format", "onnx"]) == 2
    assert "pip install 'pruneboard[onnx]'" in capsys.readouterr().err
    assert not (one / "export").exists()
    assert invoke(["export", str(one), "--json"]) == 0
    forms = {form["format"]: form for form in json.loads(capsys.readouterr().out)["forms"]}
    assert "needs onnxscript" in forms["onnx"]["note"]
    assert [name for name, form in forms.items() if form["path"] is None] == ["onnx"]
    assert not (one / "export" / onnx_file.FILE).exists()


def test_an_unknown_format_is_refused(one, capsys):
    """A mistyped format is answered with the nearest one that exists."""
    assert invoke(["export", str(one), "--format", "csr,onxx"]) == 2
    assert "did you mean onnx?" in capsys.readouterr().err


def test_the_record_may_be_given_instead_of_its_folder(one, tmp_path):
    """RUN is a folder or the `run.json` in it, and `--out` is any other folder."""
    out = tmp_path / "to" / "ship"
    assert invoke(["export", str(one / store.RUN), "--out", str(out), "--format", "safetensors"]) == 0
    assert sorted(path.name for path in out.iterdir() if path.name != "network.py") == [
        "README.md",
        safetensors_file.FILE,
    ]
    shutil.rmtree(one)
    assert load_file(out / safetensors_file.FILE)
