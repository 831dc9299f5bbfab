"""A measurement times only engines that compute the run's network, and restores torch's threads."""

from __future__ import annotations

import pytest
import torch

from pruneboard.artifacts.latency import engines
from pruneboard.artifacts.latency.measure import measure
from pruneboard.artifacts.latency.options import LatencyOptions
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.records import store


def test_a_network_of_linear_layers_agrees_in_both_csr_forms(tiny_run):
    """A pruned transformer gives dense torch's logits in both forms, which skip zeros in most of its multiply-adds."""
    options = LatencyOptions(engines=("torch-csr", "scipy-csr"), batches=(1, 2), rounds=1, warmup=0)
    found = measure(tiny_run(sparsity=0.8, model="test_vit"), options)["engines"]
    assert list(found) == ["torch", "torch-csr", "scipy-csr"]
    assert 0.5 < found["scipy-csr"]["sparse_share"] < found["torch-csr"]["sparse_share"] == 1


def test_a_supermask_run_is_measured(tiny_run):
    """A network of frozen weights under a mask is measured like any other."""
    found = measure(tiny_run("random", 0.5, track="supermask"), LatencyOptions(("torch-csr",), (1,), rounds=1))
    assert found["run"]["track"] == "supermask"
    assert len(found["timings"]) == 2


def test_threads_are_set_for_the_measurement_alone(pruned):
    """The document states the requested number of threads, and torch has its own number again afterwards."""
    before = torch.get_num_threads()
    found = measure(pruned / store.RUN, LatencyOptions(("torch",), (1,), threads=before + 1, rounds=1))
    assert found["hardware"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_other_logits_are_an_error_and_not_timed(pruned, monkeypatch):
    """An engine that does not compute the run's network is named with the difference, and nothing is timed."""

    def wrong(inputs):
        return engines.Engine("scipy-csr", lambda images: inputs.run.network(images) + 0.5, "wrong")

    monkeypatch.setitem(engines._BUILDERS, "scipy-csr", wrong)
    clock = []
    with pytest.raises(ConformanceError, match="engine scipy-csr was not timed: at batch 1 its logits differ"):
        measure(pruned, LatencyOptions(("scipy-csr",), (1,), rounds=1), clock=lambda: clock.append(1) or 0.0)
    assert not clock


def test_a_failing_engine_is_named(pruned, monkeypatch):
    """If memory is short, the error names the engine and the batch size."""

    def failing(inputs):
        def call(images):
            raise RuntimeError("not enough memory")

        return engines.Engine("torch-csr", call, "failing")

    monkeypatch.setitem(engines._BUILDERS, "torch-csr", failing)
    reason = r"engine torch-csr fails at batch 1 \(RuntimeError: not enough memory\)"
    with pytest.raises(UsageError, match=reason):
        measure(pruned, LatencyOptions(("torch-csr",), (1,), rounds=1))
