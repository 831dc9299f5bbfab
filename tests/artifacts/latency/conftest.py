"""A run to time, and the result of timing it."""

from __future__ import annotations

import pytest

from pruneboard.artifacts import finished_run
from pruneboard.artifacts.latency.measure import measure
from pruneboard.artifacts.latency.options import LatencyOptions


@pytest.fixture(scope="session")
def pruned(tiny_run):
    """The folder of a run of test_resnet pruned to 0.8; it must not be changed."""
    return tiny_run(sparsity=0.8)


@pytest.fixture(scope="session")
def loaded(pruned):
    """The same run, loaded as for a measurement; it must not be changed."""
    return finished_run.load(*finished_run.find(pruned, "measured"), "measured")


@pytest.fixture(scope="session")
def document(pruned):
    """The document of that run in every engine, at batch sizes 1 and 3."""
    return measure(pruned, LatencyOptions(batches=(1, 3), rounds=2, warmup=0))
