"""An exported run with test images next to it, and processes that cannot import pruneboard."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from project import blocks
from pruneboard.artifacts.exporting.export import export
from pruneboard.data import open_dataset
from runs import folder as run_folder
from runs import run
from verify_cases import record_of

WITHOUT_PRUNEBOARD = """
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
"""The first lines of a process in the folder of an export; it finds test images in the folder above."""


def exported_run(name: str, results: Path) -> Path:
    """Train and export a network; save raw test images and labels, as numpy reads them, in the run's folder."""
    run(results, "magnitude", 0.8, model=name, limit_train=400, overrides={"epochs": 4})
    folder = run_folder(results)
    assert [result.name for result in export(folder) if result.path] == ["safetensors", "csr", "onnx"]
    size = record_of(folder)["data"]["image_size"]
    split: dict[str, Any] = {"val_fraction": 0.1, "limit_train": None, "split_seed": 0}
    dataset = open_dataset("digits", data_dir=None, download=False, image_size=size, **split)
    np.save(folder / "pixels.npy", dataset.test.images.stored[dataset.test.rows].numpy())
    np.save(folder / "labels.npy", dataset.test.labels.numpy())
    return folder


def without_pruneboard(folder: Path, code: str) -> Any:
    """Run code in a process without pruneboard, in the folder of an export; return the JSON in its last line."""
    program = [sys.executable, "-I", "-c", WITHOUT_PRUNEBOARD + code]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def pages(run: Path) -> list[list[str]]:
    """The Python blocks of the export's README.md, and of docs/export.md if timm has the network."""
    in_timm = not (run / "export" / "network.py").exists()
    return [blocks("python", run / "export" / "README.md"), *([blocks("python", "docs/export.md")] if in_timm else [])]
