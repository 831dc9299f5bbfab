"""A measurement is shown as a table with notes and verdicts."""

from __future__ import annotations

import pytest

from pruneboard.artifacts.latency import report
from pruneboard.artifacts.latency.options import ENGINES


def test_the_table_shows_every_row_and_the_verdicts(document):
    """The text has the run, the threads, a line for each row, a note for each engine, and a verdict per batch size."""
    lines = report.text(document).splitlines()
    table = [line.split()[:2] for line in lines]
    assert all([row["engine"], str(row["batch"])] in table for row in document["timings"])
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in ENGINES.names)
    assert "digits / test_resnet / prune" in lines[0]
    assert "; 1 thread; " in lines[1]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["batch 1", "batch 3"]


@pytest.mark.parametrize(
    ("zeros", "speedup", "sentence"),
    [
        ("pay", 2.5, "zeros pay: the fastest engine that skips them, torch-csr, is 2.50 times as fast"),
        ("do not pay", 0.625, "zeros do not pay: the fastest engine that skips them, torch-csr, is 0.62 times"),
        ("open", 1.25, "open: the times of torch-csr, which skips zeros, and onnxruntime, which does not, overlap"),
    ],
)
def test_a_verdict_is_one_sentence(zeros, speedup, sentence):
    """The sentence names both engines and, unless the verdict is open, the speedup."""
    verdict = {"batch": 1, "dense": "onnxruntime", "sparse": "torch-csr", "zeros": zeros, "speedup": speedup}
    assert report.verdict_sentence(verdict).startswith(f"batch 1: {sentence}")


def test_no_sparse_engine_is_said():
    """If no engine skips most zeros, the sentence says so."""
    verdict = {"batch": 8, "dense": "torch", "sparse": None, "zeros": None, "speedup": None}
    assert report.verdict_sentence(verdict) == "batch 8: no engine here skips most zeros"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-4, "0.123"), (9e-4, "0.900"), (0.00123, "1.23"), (0.0999, "99.9"), (1.5, "1500.0")],
)
def test_milliseconds_have_three_digits(seconds, text):
    """Times are shown in milliseconds with at least three digits."""
    assert report.milliseconds(seconds) == text
