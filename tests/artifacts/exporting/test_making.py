"""`pruneboard export`: what it writes loads where pruneboard is not, and has the run's zeros and its accuracy."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import load_file

import pruneboard.models  # noqa: F401 - registers the networks that timm does not have
import verify_cases as cases
from project import blocks
from pruneboard.artifacts.exporting import files, graph, load_csr, making, matrices, tensors
from pruneboard.artifacts.exporting.subject import checked
from pruneboard.cli import invoke
from pruneboard.data import open_dataset
from pruneboard.errors import ConformanceError, StoreError
from pruneboard.models import standalone
from pruneboard.records import store
from runs import folder as run_folder
from runs import run
from verify_cases import copied, edit, record_of, rehash

STRANGER = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("pruneboard"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
sys.path.insert(0, ".")
try:
    import pruneboard
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("pruneboard is not hidden")

import numpy as np
pixels, labels = np.load("../pixels.npy"), np.load("../labels.npy")

def correct(logits):
    return int((logits(pixels).argmax(1) == labels).sum())
"""
"""Starts a process that cannot import pruneboard, in the folder of an export; images lie in the one above."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name of a network -> the folder of a run, which is trained and exported when it is first asked for."""
    return functools.cache(lambda name: exported_run(name, tmp_path_factory.mktemp("results")))


@pytest.fixture(
    params=["test_resnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("test_vit", "resnet8_cifar"))]
)
def exported(request, made):
    """The folder of a run pruned to 0.8 that learned something, exported in every form. Not to be written to."""
    return made(request.param)


@pytest.fixture
def one(made, tmp_path):
    """A copy of the run of test_resnet, not exported yet."""
    return copied(made("test_resnet"), tmp_path / "run", "export")


def exported_run(name, results):
    """Train and export; lay raw test images and their labels, as numpy reads them, into the run's folder."""
    run(results, "magnitude", 0.8, model=name, limit_train=400, overrides={"epochs": 4})
    folder = run_folder(results)
    assert [form.name for form in making.export(folder) if form.path] == ["safetensors", "csr", "onnx"]
    record = record_of(folder)
    asked = {"val_fraction": 0.1, "limit_train": None, "split_seed": 0}
    dataset = open_dataset("digits", data_dir=None, download=False, image_size=record["data"]["image_size"], **asked)
    np.save(folder / "pixels.npy", dataset.test.images.stored[dataset.test.rows].numpy())
    np.save(folder / "labels.npy", dataset.test.labels.numpy())
    return folder


def stranger(folder, code):
    """What a process without pruneboard prints as JSON, in the folder of an export."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER + code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def pages(folder):
    """The Python blocks of the export's own page, and of docs/export.md, which is about networks that timm has."""
    own = (folder / "export" / "network.py").exists()
    return [blocks("python", folder / "export" / "README.md"), *([] if own else [blocks("python", "docs/export.md")])]


# Elsewhere


def test_tensors_give_the_recorded_accuracy_elsewhere(exported):
    """Without pruneboard, what both pages say of safetensors and CSR gives exactly the recorded correct images."""
    code = "found = []\n"
    for prepared, dense, sparse, _ in pages(exported):
        code += prepared + dense + "found.append(correct(logits))\n" + sparse + "found.append(correct(logits))\n"
    found = stranger(exported / "export", code + "print(json.dumps(found))")
    expected = record_of(exported)["metrics"]["test"]["correct"]
    assert expected > 355 / 5
    assert set(found) == {expected}
    assert len(found) == 2 * len(pages(exported))


def test_onnx_gives_the_recorded_accuracy_elsewhere(exported):
    """Without pruneboard, torch and timm, ONNX Runtime gives exactly the recorded correct images by both pages."""
    code = "found = []\n"
    for prepared, *_, program in pages(exported):
        code += prepared + program + "found.append(correct(logits))\n"
    code += "assert not {'torch', 'timm'} & set(sys.modules)\nprint(json.dumps(found))"
    assert set(stranger(exported / "export", code)) == {record_of(exported)["metrics"]["test"]["correct"]}


def test_csr_is_read_without_torch(exported):
    """The loader beside the arrays needs numpy and scipy alone, and finds the recorded non-zeros."""
    code = "from load_csr import matrices, state\nstate()\nassert 'torch' not in sys.modules\n"
    code += "print(sum(matrix.nnz for matrix in matrices().values()))"
    assert stranger(exported / "export", code) == record_of(exported)["sparsity"]["nonzero"]


# What is written


def test_every_form_has_the_recorded_zeros(exported):
    """Layer by layer, each form holds as many non-zeros as the record counts."""
    layers = {f"{layer['name']}.weight": layer["nonzero"] for layer in record_of(exported)["sparsity"]["layers"]}
    out = exported / "export"
    dense = load_file(out / tensors.FILE)
    graph_tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out / graph.FILE).graph.initializer}
    assert {name: int((dense[name] != 0).sum()) for name in layers} == layers
    assert {name: matrix.nnz for name, matrix in load_csr.matrices(out).items()} == layers
    assert {name: np.count_nonzero(graph_tensors[name]) for name in layers} == layers


def test_every_tensor_is_that_of_the_run(exported):
    """The tensors of safetensors and CSR are the run's, every one, and the matrices take the recorded bytes."""
    state, out = load_file(exported / store.WEIGHTS), exported / "export"
    dense, sparse = load_file(out / tensors.FILE), load_csr.state(out)
    assert state.keys() == dense.keys() == sparse.keys()
    assert all(torch.equal(dense[name], state[name]) and np.array_equal(sparse[name], state[name]) for name in state)
    parts = [array.nbytes for m in load_csr.matrices(out).values() for array in (m.data, m.indices, m.indptr)]
    assert sum(parts) == record_of(exported)["cost"]["bytes"]["csr"]


def test_a_weight_that_layers_share_is_stored_once(one, tmp_path):
    """A tensor equal to a prunable weight is written as its name, and loads as any other."""
    subject = checked(one, record_of(one))
    name = subject.weights[-1]
    again = dataclasses.replace(subject, state={**subject.state, "again.weight": subject.state[name].clone()})
    matrices.write(again, tmp_path)
    assert load_csr.description(tmp_path)["same_as"] == {"again.weight": name}
    assert np.array_equal(load_csr.state(tmp_path)["again.weight"], subject.state[name])
    with np.load(tmp_path / load_csr.ARRAYS) as arrays:
        assert not [key for key in arrays if "again" in key]


@pytest.mark.slow
def test_a_file_without_the_weights_is_not_let_through(one, tmp_path):
    """A graph of other weights than the run's is found when it is read again."""
    subject = checked(one, record_of(one))
    subject.network.get_parameter(subject.weights[0]).data.mul_(2)
    with pytest.raises(ConformanceError, match="does not hold"):
        graph.write(subject, tmp_path)


@pytest.mark.parametrize(
    "name", ["resnet8_cifar", "vgg19_cifar", "resnet18_small_stem", "resnet18d_small_stem", "mobilenetv3_small_100"]
)
def test_the_copied_source_builds_the_same_network(name):
    """`network.py` builds, layer for layer, what timm does once pruneboard has registered its names."""
    with torch.device("meta"):
        ours, timms = standalone.build(name, {"num_classes": 7}), timm.create_model(name, num_classes=7)
    assert str(ours) == str(timms)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in timms.state_dict().items()}
    assert standalone.in_timm(name) == (name == "mobilenetv3_small_100")


# Where it is written


def test_equal_content_is_left_alone_and_other_is_not_overwritten(made, one, capsys):
    """Again gives the same bytes and touches nothing; other content stays until `--force`."""
    out, first = one / "export", made("test_resnet") / "export"
    command = ["export", str(one), "--format", "csr,safetensors"]
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


def test_a_failed_export_leaves_nothing(tmp_path):
    """What fails halfway makes no folder and no file, and what was there stays."""

    def fail():
        with files.together(tmp_path / "new", force=True) as made:
            (made / "half").write_text("half")
            raise OSError("no space left")

    with pytest.raises(StoreError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_run_itself_is_never_a_target(one, capsys):
    """`--out` of a run's own folder is refused: its weights stay as they are."""
    assert invoke(["export", str(one), "--out", str(one), "--force"]) == 2
    assert "folder of a run" in capsys.readouterr().err


# What is refused


def test_a_missing_package_is_named(one, capsys, monkeypatch):
    """Asked for by name ONNX is refused with the extra that has it; else the other forms are made."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert invoke(["export", str(one), "--format", "onnx"]) == 2
    assert "pip install 'pruneboard[onnx]'" in capsys.readouterr().err
    assert not (one / "export").exists()
    assert invoke(["export", str(one), "--json"]) == 0
    forms = {form["format"]: form for form in json.loads(capsys.readouterr().out)["forms"]}
    assert "needs onnxscript" in forms["onnx"]["note"]
    assert [name for name, form in forms.items() if form["path"] is None] == ["onnx"]
    assert not (one / "export" / graph.FILE).exists()


def without(name):
    """Remove a file of the run."""
    return lambda folder: (folder / name).unlink()


def changed(name, text):
    """Write something else into a file of the run."""
    return lambda folder: (folder / name).write_text(text)


def claimed(**values):
    """Edit the record, and let hash and fingerprint follow."""

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
        (claimed(data__mean=[0.1, 0.2]), 2, "data.mean is three numbers"),
        (claimed(data__std=[0.0, 1.0, 1.0]), 2, "data.std is three numbers"),
        (claimed(model__name="../../etc\x1b[31m"), 2, "unknown model"),
        (claimed(model__load_as="hf-hub:stranger/pickle"), 3, "model.load_as"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_not_a_sound_run_is_refused_in_one_line(one, capsys, spoil, code, message):
    """Unreadable, unfinished, disputed or hostile: one line that names it, its exit code, and nothing written."""
    spoil(one)
    assert invoke(["export", str(one), "--format", "safetensors"]) == code
    said = capsys.readouterr().err
    assert message in said
    if code:
        assert said.count("\n") == 1
        assert "\x1b" not in said
        assert not (one / "export").exists()


def test_an_unknown_form_is_refused(one, capsys):
    """A mistyped form is answered with the nearest that exists."""
    assert invoke(["export", str(one), "--format", "csr,onxx"]) == 2
    assert "did you mean onnx?" in capsys.readouterr().err


def test_the_record_may_be_named_instead_of_its_folder(one, tmp_path):
    """RUN is a folder or the file in it, and `--out` any other folder."""
    out = tmp_path / "to" / "ship"
    assert invoke(["export", str(one / store.RUN), "--out", str(out), "--format", "safetensors"]) == 0
    assert sorted(path.name for path in out.iterdir() if path.name != "network.py") == ["README.md", tensors.FILE]
    shutil.rmtree(one)
    assert load_file(out / tensors.FILE)
