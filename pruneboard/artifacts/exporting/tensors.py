"""safetensors: the dense network with its zeros in place, under the names of timm's own network."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from pruneboard import models
from pruneboard.artifacts.exporting import description
from pruneboard.artifacts.exporting.subject import Subject
from pruneboard.errors import ConformanceError

FILE = "model.safetensors"


def write(subject: Subject, folder: Path) -> str:
    """Write `model.safetensors`, read it again, and return what is to be said of it.

    Raises:
        ConformanceError: what was written is not what was given.
    """
    path = folder / FILE
    # One key of metadata, since the library writes several in no fixed order.
    path.write_bytes(save(subject.state, {description.KEY: description.dumps(subject)}))
    if models.state_sha256(load_file(path)) != models.state_sha256(subject.state):
        raise ConformanceError(f"{FILE} does not give the weights back that were written to it")
    return "dense, zeros in place"
