"""The state of a process: settings are restored after a block, and every draw from a global generator shows."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

from pruneboard.testing import process_state

CHANGES = {
    "the environment": lambda _: os.environ.update(PRUNEBOARD_TEST="1"),
    "the working directory": os.chdir,
    "torch's default dtype": lambda _: torch.set_default_dtype(torch.float64),
    "torch's number of threads": lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's gradient mode": lambda _: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch's deterministic mode": lambda _: torch.use_deterministic_algorithms(
        not torch.are_deterministic_algorithms_enabled()
    ),
    "torch's matrix multiplication precision": lambda _: torch.set_float32_matmul_precision("medium"),
    "cuDNN's benchmark mode": lambda _: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
}


def test_every_setting_has_a_case():
    """The cases below cover every setting."""
    assert set(CHANGES) == set(process_state.settings())


def changed_by(change, folder, *, before, expected):
    """Make the change, assert which settings differ from `before`, and raise an error."""
    change(folder)
    assert {name for name, value in process_state.settings().items() if value != before[name]} == expected
    raise ZeroDivisionError


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_shows_and_is_restored(name, tmp_path):
    """A change inside the block shows in that setting only, and is undone after it, even after an error."""
    before = process_state.settings()
    with pytest.raises(ZeroDivisionError), process_state.settings_restored():
        changed_by(CHANGES[name], tmp_path, before=before, expected={name})
    assert process_state.settings() == before


def test_a_removed_variable_is_restored(monkeypatch):
    """An environment variable that is deleted inside the block is there again after it."""
    monkeypatch.setenv("PRUNEBOARD_TEST", "kept")
    with process_state.settings_restored():
        del os.environ["PRUNEBOARD_TEST"]
    assert os.environ["PRUNEBOARD_TEST"] == "kept"


@pytest.mark.parametrize(
    ("name", "draw"),
    [("torch", lambda: torch.rand(1)), ("numpy", np.random.rand), ("Python", random.random)],
)
def test_a_draw_changes_the_random_state(name, draw):
    """A draw from a global generator changes the state of that generator only; without a draw nothing changes."""
    before = process_state.random_state()
    assert process_state.random_state() == before
    draw()
    after = process_state.random_state()
    assert [key for key in before if before[key] != after[key]] == [f"the random state of {name}"]
