"""Tests the summary of one run."""

from __future__ import annotations

from fake_records import record
from pruneboard import report


def test_a_summary_has_request_and_result():
    """A finished record is shown with target, counts, accuracies, cost, layers and provenance."""
    made = record("probmask", 0.995, seed=3, top1=0.9321)
    text = report.render(report.summary(made), 120, color=False)
    for fact in (
        "probmask at sparsity 0.995 on resnet20_cifar, digits, prune: done",
        "50 of 10,000 prunable",
        "top-1 93.21 %",
        "9,321 of 10,000 images",
        "one multiply-add is one MAC",
        "256 MiB",
        made["hash"],
    ):
        assert fact in text
    layer = next(line for line in text.splitlines() if line.startswith("layer1.0.conv1"))
    assert layer.split() == ["layer1.0.conv1", "8,000", "0", "1.0000"]
    assert "layer1.0.conv1" not in report.render(report.summary(made, layers=False), 120).split("Provenance")[1]


def test_a_summary_has_effective_sparsity():
    """Effective sparsity, attention's products and costs by layer are shown if the record contains them."""
    layers = [layer | {"alive": 7, "macs_dense": 64 * layer["n"]} for layer in record()["sparsity"]["layers"]]
    newer = {"sparsity__alive": 21, "sparsity__effective": 0.9979, "sparsity__layers": layers}
    made = record(cost__macs_attention=1234, cost__bytes__compressed=77, **newer)
    text = report.render(report.summary(made), 160, color=False)
    for fact in ("0.9979: 21 weights connect the input to the output", "1,234 further multiply-adds", "compressed 77"):
        assert fact in text
    line = next(line for line in text.splitlines() if line.startswith("layer1.0.conv1"))
    assert line.split() == ["layer1.0.conv1", "8,000", "0", "1.0000", "7", "512,000"]
    older = report.render(report.summary(record()), 160, color=False)
    assert "connect" not in older
    assert "attention" not in older
    unknown = record(sparsity__effective=None, sparsity__effective_unknown="it uses cumsum")
    assert "unknown: it uses cumsum" in report.render(report.summary(unknown), 160, color=False)


def test_a_summary_of_a_failed_run_has_its_error():
    """A record without results is shown with its error."""
    text = report.render(report.summary(record(status="oom")), 120, color=False)
    assert text.startswith("probmask at sparsity 0.9 on resnet20_cifar, digits, prune: oom\nRunError: the run is oom")
