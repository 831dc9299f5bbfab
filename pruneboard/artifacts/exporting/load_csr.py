"""Load `model.csr.npz`; needs numpy and scipy, but neither pruneboard nor torch.

    from load_csr import matrices, state

    state()       # every tensor of the network as a dense array, by its name in the state dict
    matrices()    # the prunable weights as scipy.sparse matrices

`pruneboard export` copies this file from `pruneboard/artifacts/exporting/load_csr.py`; it imports nothing of
pruneboard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

ARRAYS, MANIFEST = "model.csr.npz", "model.csr.json"


def description(folder: str | Path = ".") -> dict[str, Any]:
    """Return the content of `model.csr.json`: how to build the network, prepare images and read the tensors."""
    manifest: dict[str, Any] = json.loads(Path(folder, MANIFEST).read_text(encoding="ascii"))
    return manifest


def matrices(folder: str | Path = ".") -> dict[str, Any]:
    """Return name -> `scipy.sparse.csr_array` [out, in x kernel] for every prunable weight.

    A row holds the weights of one output; for a convolution, one filter flattened from [in / groups, height, width].
    """
    shapes = description(folder)["csr"]
    with np.load(Path(folder, ARRAYS), allow_pickle=False) as file:
        return {name: _matrix(file, name, shape) for name, shape in shapes.items()}


def state(folder: str | Path = ".") -> dict[str, Any]:
    """Return name -> dense numpy array for every tensor of the network."""
    manifest = description(folder)
    found = {name: matrix.toarray().reshape(manifest["csr"][name]) for name, matrix in matrices(folder).items()}
    with np.load(Path(folder, ARRAYS), allow_pickle=False) as file:
        found.update({name: file[f"dense/{name}"] for name in manifest["dense"]})
    return found | {name: found[other] for name, other in manifest["same_as"].items()}


def _matrix(file: Any, name: str, shape: list[int]) -> Any:
    parts = tuple(file[f"{part}/{name}"] for part in ("data", "indices", "indptr"))
    return csr_array(parts, shape=(shape[0], int(np.prod(shape[1:]))))
