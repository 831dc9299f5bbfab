"""Write `model.csr.npz`: every prunable weight as a CSR matrix, all other tensors dense.

A weight [out, in, ...] becomes a matrix [out, in x ...]: for a convolution, each row is one filter. A weight that
several layers share is written once. The sign of a zero is lost.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruneboard.artifacts.exporting import description, load_csr
from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.errors import ConformanceError, UsageError

LOADER = "load_csr.py"


def write(run: FinishedRun, folder: Path) -> str:
    """Write arrays, manifest and loader, load the arrays with that loader, and return a note on their number.

    Raises:
        UsageError: a tensor has a type that numpy does not support.
        ConformanceError: a tensor read back differs from the run's.
    """
    state = {name: _array(name, tensor) for name, tensor in run.state.items()}
    same_as = _shared_weights(state, run.weights)
    sparse = {name: state[name] for name in run.weights}
    rest = {name: array for name, array in state.items() if name not in sparse and name not in same_as}
    np.savez(folder / load_csr.ARRAYS, allow_pickle=False, **_members(sparse, rest))
    manifest = {
        **description.describe(run),
        "csr": {name: list(array.shape) for name, array in sparse.items()},
        "dense": sorted(rest),
        "same_as": same_as,
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (folder / load_csr.MANIFEST).write_text(text, encoding="ascii")
    source = resources.files("pruneboard.artifacts.exporting").joinpath(LOADER).read_text(encoding="utf-8")
    (folder / LOADER).write_text(source, encoding="utf-8")
    _check(folder, state)
    return f"{len(sparse)} sparse matrices, {len(rest)} dense tensors"


def _array(name: str, tensor: Tensor) -> NDArray[Any]:
    try:
        return tensor.contiguous().numpy()
    except TypeError:
        raise UsageError(f"format csr: tensor {name} has type {tensor.dtype}, which numpy does not support") from None


def _shared_weights(state: dict[str, NDArray[Any]], weights: list[str]) -> dict[str, str]:
    """Return name -> prunable weight for every other tensor that equals one, as in layers that share a weight."""
    others = [name for name in state if name not in set(weights) and state[name].ndim >= 2]
    return {
        other: weight
        for other in others
        for weight in weights
        if state[other].shape == state[weight].shape and np.array_equal(state[other], state[weight])
    }


def _members(sparse: dict[str, NDArray[Any]], rest: dict[str, NDArray[Any]]) -> dict[str, Any]:
    from scipy.sparse import csr_array

    members: dict[str, Any] = {}
    for name, weight in sparse.items():
        matrix = csr_array(weight.reshape(len(weight), -1))
        members[f"data/{name}"] = matrix.data
        members[f"indices/{name}"] = matrix.indices.astype(np.int32, copy=False)
        members[f"indptr/{name}"] = matrix.indptr.astype(np.int32, copy=False)
    return members | {f"dense/{name}": array for name, array in rest.items()}


def _check(folder: Path, state: dict[str, NDArray[Any]]) -> None:
    found = load_csr.state(folder)
    wrong = [
        name
        for name in state.keys() | found.keys()
        if name not in found or name not in state or not np.array_equal(found[name], state[name])
    ]
    if wrong:
        raise ConformanceError(f"{load_csr.ARRAYS} was written, but {min(wrong)} differs when it is read back")
