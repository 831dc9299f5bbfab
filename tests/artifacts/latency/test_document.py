"""The document of a measurement is complete, and its numbers follow from each other."""

from __future__ import annotations

import json

import pytest

from pruneboard.artifacts.latency.document import MeasuredEngine, Measurement, build
from pruneboard.artifacts.latency.options import ENGINES, LatencyOptions
from pruneboard.artifacts.latency.timing import Times
from verify_cases import record_of


def test_the_document_is_complete(document, pruned):
    """Every engine is measured at every batch size or has a reason, and threads, machine and versions are stated."""
    record = record_of(pruned)
    assert list(document["engines"]) == list(ENGINES.names)
    measured = [name for name, engine in document["engines"].items() if engine["available"]]
    assert measured == ["torch", "torch-csr", "scipy-csr", "onnxruntime"]
    assert [(row["engine"], row["batch"]) for row in document["timings"]] == [(n, b) for b in (1, 3) for n in measured]
    assert "two zeros in every four" in document["engines"]["torch-2:4"]["note"]
    assert document["hardware"]["threads"] == document["settings"]["threads"] == 1
    assert {"processor", "cores", "load"} <= document["hardware"].keys()
    assert all(document["software"][name] for name in ("python", "torch", "numpy", "scipy", "onnxruntime"))
    assert document["run"]["weights_sha256"] == record["weights_sha256"]
    assert document["run"]["nonzero"] == record["sparsity"]["nonzero"]
    assert [verdict["batch"] for verdict in document["verdicts"]] == [1, 3]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_numbers_follow_from_each_other(document):
    """Speedups are ratios of medians, images per second their inverse, and logits differ by at most the tolerance."""
    dense = {row["batch"]: row["median_seconds"] for row in document["timings"] if row["engine"] == "torch"}
    for row in document["timings"]:
        assert row["rounds"] == 2
        assert row["p10_seconds"] <= row["median_seconds"] <= row["p90_seconds"]
        assert row["speedup"] == pytest.approx(dense[row["batch"]] / row["median_seconds"])
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["median_seconds"])
        assert row["logits_apart"] <= row["logits_tolerance"]
        assert (row["gain_from_zeros"] is None) == (row["engine"] in ("torch-csr", "scipy-csr"))
    assert {row["speedup"] for row in document["timings"] if row["engine"] == "torch"} == {1.0}


def test_sparse_layers_are_listed_with_their_share(document, pruned):
    """CSR of torch skips zeros in every layer, CSR of scipy in the linear one, with its share of the multiply-adds."""
    layers = record_of(pruned)["sparsity"]["layers"]
    engines = document["engines"]
    assert engines["torch-csr"]["sparse_layers"] == [layer["name"] for layer in layers]
    assert engines["torch-csr"]["sparse_share"] == 1
    assert engines["scipy-csr"]["sparse_layers"] == ["fc"]
    macs = [layer["n"] * layer["positions"] for layer in layers]
    assert engines["scipy-csr"]["sparse_share"] == pytest.approx(macs[-1] / sum(macs))
    assert engines["torch"]["sparse_share"] == engines["onnxruntime"]["sparse_share"] == 0


def measurement(engine, p10, median, p90):
    """The measurement of an engine with these times, at batch size 1."""
    return Measurement(engine, 1, Times(9, median, p10, p90), control=None, difference=0.0, tolerance=1e-4)


@pytest.mark.parametrize(
    ("times", "zeros"), [((1, 2, 3), "pay"), ((7, 8, 9), "do not pay"), ((3, 4, 5), "open"), ((5.5, 6, 7), "open")]
)
def test_the_verdict_follows_the_times(loaded, times, zeros):
    """Zeros pay if the sparse times lie below those of the fastest dense engine, which need not be torch."""
    layers = [layer["name"] for layer in loaded.record["sparsity"]["layers"]]
    sparse = {"torch": [], "torch-csr": layers, "scipy-csr": layers[-1:], "onnxruntime": []}
    rows = [measurement("torch", 9, 10, 11), measurement("torch-csr", *times), measurement("onnxruntime", 4, 5, 6)]
    rows.append(measurement("scipy-csr", 0.1, 0.1, 0.1))  # ignored: it skips zeros in one layer of many
    engines = {name: MeasuredEngine(name, names) for name, names in sparse.items()}
    (verdict,) = build(loaded, LatencyOptions(batches=(1,)), {}, engines, rows)["verdicts"]
    assert (verdict["zeros"], verdict["sparse"], verdict["dense"]) == (zeros, "torch-csr", "onnxruntime")
    assert verdict["speedup"] == pytest.approx(5 / times[1])
