"""Write `model.safetensors`: the dense network, zeros included, under timm's own parameter names."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from pruneboard import models
from pruneboard.artifacts.exporting import description
from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.errors import ConformanceError

FILE = "model.safetensors"


def write(run: FinishedRun, folder: Path) -> str:
    """Write the file, read it back, and return a note on its content.

    Raises:
        ConformanceError: the tensors read back differ from the run's.
    """
    path = folder / FILE
    # A single metadata key: the library writes several keys in arbitrary order, and equal runs must give equal bytes.
    path.write_bytes(save(run.state, {description.KEY: description.dumps(run)}))
    if models.state_sha256(load_file(path)) != models.state_sha256(run.state):
        raise ConformanceError(f"{FILE} was written, but its tensors differ when it is read back")
    return "dense, zeros in place"
