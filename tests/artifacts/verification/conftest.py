"""Real runs to verify."""

from __future__ import annotations

import pytest

from verify_cases import copied


@pytest.fixture
def trained(tiny_run):
    """The folder of a run that was trained for eight steps and pruned to 0.9; it must not be changed."""
    return tiny_run()


@pytest.fixture
def frozen(tiny_run):
    """The folder of a supermask run, a random mask over frozen weights; it must not be changed."""
    return tiny_run("random", 0.5, track="supermask")


@pytest.fixture
def one(trained, tmp_path):
    """A copy of the trained run."""
    return copied(trained, tmp_path / "run")
