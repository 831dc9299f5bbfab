"""An ONNX file holds the run's weights, which can be replaced without a new trace."""

from __future__ import annotations

import copy

import pytest
import torch

from pruneboard.artifacts.exporting import onnx_file
from pruneboard.artifacts.latency.dense_control import fill_zeros
from pruneboard.errors import ConformanceError


@pytest.mark.slow
def test_a_file_without_the_runs_weights_is_rejected(loaded, tmp_path):
    """If the traced network has other weights than the run, this is found when the file is read back."""
    other = copy.deepcopy(loaded)
    other.network.get_parameter(other.weights[0]).data.mul_(2)
    with pytest.raises(ConformanceError, match="does not hold"):
        onnx_file.write(other, tmp_path)


def test_replaced_weights_are_computed_with(export_of, loaded, tmp_path):
    """After `replace_weights`, the file gives the other network's logits, and not those of the run."""
    path, control = export_of("test_resnet") / "export" / onnx_file.FILE, fill_zeros(loaded)
    onnx_file.replace_weights(path, control, tmp_path / "control.onnx")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, other = control.network(images), loaded.network(images)
    found = onnx_file.runner(tmp_path / "control.onnx")(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - other).abs().max() > 1e-3
