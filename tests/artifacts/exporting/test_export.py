"""The files of an export hold the run's network, and `network.py` builds it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import load_file

import pruneboard.models  # noqa: F401 - registers the networks that timm does not have
from pruneboard.artifacts.exporting import export, load_csr, onnx_file, safetensors_file
from pruneboard.errors import StoreError, UsageError
from pruneboard.models import standalone
from pruneboard.records import store
from verify_cases import copied, record_of


def test_every_format_has_the_recorded_zeros(exported):
    """Layer by layer, each format has as many non-zeros as the record."""
    layers = {f"{layer['name']}.weight": layer["nonzero"] for layer in record_of(exported)["sparsity"]["layers"]}
    out = exported / "export"
    dense = load_file(out / safetensors_file.FILE)
    in_graph = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out / onnx_file.FILE).graph.initializer}
    assert {name: int((dense[name] != 0).sum()) for name in layers} == layers
    assert {name: matrix.nnz for name, matrix in load_csr.matrices(out).items()} == layers
    assert {name: np.count_nonzero(in_graph[name]) for name in layers} == layers


def test_every_tensor_equals_the_runs(exported):
    """All tensors of safetensors and CSR equal the run's, and the matrices take the bytes in the record."""
    state, out = load_file(exported / store.WEIGHTS), exported / "export"
    dense, sparse = load_file(out / safetensors_file.FILE), load_csr.state(out)
    assert state.keys() == dense.keys() == sparse.keys()
    assert all(torch.equal(dense[name], state[name]) and np.array_equal(sparse[name], state[name]) for name in state)
    parts = [array.nbytes for m in load_csr.matrices(out).values() for array in (m.data, m.indices, m.indptr)]
    assert sum(parts) == record_of(exported)["cost"]["bytes"]["csr"]


def test_the_runs_own_folder_is_refused(export_of):
    """An export to the folder of a run would replace its weights, and is refused before anything is written."""
    run = export_of("test_resnet")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(UsageError, match="must not change"):
        export.export(run, out=run, force=True)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["resnet8_cifar", "vgg19_cifar", "resnet18_small_stem", "resnet18d_small_stem", "mobilenetv3_small_100"]
)
def test_network_py_builds_the_same_network_as_timm(name):
    """The source of `network.py` builds the same layers as timm, once pruneboard has registered its names there."""
    with torch.device("meta"):
        ours, timms = standalone.build(name, {"num_classes": 7}), timm.create_model(name, num_classes=7)
    assert str(ours) == str(timms)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in timms.state_dict().items()}
    assert standalone.in_timm(name) == (name == "mobilenetv3_small_100")


def test_a_linked_export_folder_is_refused(tiny_run, tmp_path):
    """`export/` in a run's folder may not lead out of it; nothing is written there."""
    run = copied(tiny_run(), tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (run / "export").symlink_to("../outside")
    with pytest.raises(StoreError, match="export leads out of"):
        export.export(run, formats=["safetensors"])
    assert list((tmp_path / "outside").iterdir()) == []
