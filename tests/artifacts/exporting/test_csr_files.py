"""The CSR files store shared weights once, and reject types that numpy lacks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pruneboard.artifacts.exporting import csr_files, load_csr
from pruneboard.errors import UsageError


def test_a_shared_weight_is_stored_once(loaded, tmp_path):
    """A tensor that equals a prunable weight is stored as that weight's name, and loads like any other tensor."""
    name = loaded.weights[-1]
    tied = dataclasses.replace(loaded, state={**loaded.state, "again.weight": loaded.state[name].clone()})
    csr_files.write(tied, tmp_path)
    assert load_csr.description(tmp_path)["same_as"] == {"again.weight": name}
    assert np.array_equal(load_csr.state(tmp_path)["again.weight"], loaded.state[name])
    with np.load(tmp_path / load_csr.ARRAYS) as arrays:
        assert not [key for key in arrays if "again" in key]


def test_a_type_that_numpy_lacks_is_refused(loaded, tmp_path):
    """A bfloat16 tensor cannot be written, and the error names it."""
    state = {**loaded.state, "extra": torch.zeros(3, dtype=torch.bfloat16)}
    with pytest.raises(UsageError, match=r"tensor extra has type torch\.bfloat16"):
        csr_files.write(dataclasses.replace(loaded, state=state), tmp_path)
