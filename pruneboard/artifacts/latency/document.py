"""The result of a measurement as plain JSON: run, machine, versions, settings, times, and whether zeros pay."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneboard.artifacts.finished_run import FinishedRun
from pruneboard.artifacts.latency.options import DENSE, REFERENCE, LatencyOptions
from pruneboard.artifacts.latency.timing import Times
from pruneboard.records import provenance

SCHEMA = 1

PACKAGES = ("pruneboard", "torch", "timm", "numpy", "scipy", "onnxruntime")

MIN_SPARSE_SHARE = 0.5
"""An engine counts as sparse in the verdicts if it skips zeros in at least this share of the multiply-adds."""


@dataclass(frozen=True)
class MeasuredEngine:
    """An engine that was measured.

    Attributes:
        note: what it runs.
        sparse: names of the layers in which it skips zeros.
    """

    note: str
    sparse: Sequence[str]


@dataclass(frozen=True)
class Measurement:
    """The times of one engine at one batch size.

    Attributes:
        engine: the engine's name.
        batch: images per call.
        times: times of the run's network.
        control: times of the same network with its zeros filled; None if the engine has no such control.
        difference: largest difference of its logits from dense torch's, relative to the largest logit or to 1.
        tolerance: largest allowed `difference`.
    """

    engine: str
    batch: int
    times: Times
    control: Times | None
    difference: float
    tolerance: float


def build(
    run: FinishedRun,
    options: LatencyOptions,
    hardware: dict[str, Any],
    engines: Mapping[str, MeasuredEngine | str],
    measurements: Sequence[Measurement],
) -> dict[str, Any]:
    """Return the document.

    Args:
        run: the measured run.
        options: the options of the measurement.
        hardware: the machine, as in a record, with its load.
        engines: name -> the engine, or the reason why it is not available.
        measurements: every available engine at every batch size, dense torch among them.
    """
    software = {"python": platform.python_version()} | {name: provenance.version_of(name) for name in PACKAGES}
    described = {name: _engine(run, engine) for name, engine in engines.items()}
    sparse = {name for name, engine in described.items() if (engine["sparse_share"] or 0) >= MIN_SPARSE_SHARE}
    return {
        "schema": SCHEMA,
        "run": _run(run),
        "hardware": hardware,
        "software": software,
        "settings": _settings(options),
        "engines": described,
        "timings": _rows(measurements),
        "verdicts": [_verdict(batch, measurements, sparse) for batch in options.batches],
    }


def _engine(run: FinishedRun, engine: MeasuredEngine | str) -> dict[str, Any]:
    """Return whether an engine is available, and the share of the multiply-adds in which it skips zeros."""
    if isinstance(engine, str):
        return {"available": False, "note": engine, "sparse_layers": None, "sparse_share": None}
    layers = run.record["sparsity"]["layers"]
    macs = {layer["name"]: layer["n"] * layer["positions"] for layer in layers}
    sparse = sorted(macs.keys() & set(engine.sparse), key=list(macs).index)
    share = sum(macs[name] for name in sparse) / max(1, sum(macs.values()))
    return {"available": True, "note": engine.note, "sparse_layers": sparse, "sparse_share": share}


def _run(run: FinishedRun) -> dict[str, Any]:
    record = run.record
    return {
        "hash": record["hash"],
        "weights_sha256": record["weights_sha256"],
        "method": record["method"]["name"],
        "model": record["model"]["name"],
        "data": record["data"]["name"],
        "image_size": record["data"]["image_size"],
        "track": record["track"],
        "seed": record["seed"],
        **{name: record["sparsity"][name] for name in ("prunable", "nonzero", "measured")},
        **{name: record["cost"][name] for name in ("macs_dense", "macs_remaining")},
    }


def _settings(options: LatencyOptions) -> dict[str, Any]:
    return {
        "engines": list(options.engines) if options.engines is not None else None,
        "batches": list(options.batches),
        "threads": options.threads,
        "seconds": options.seconds if options.rounds is None else None,
        "rounds": options.rounds,
        "warmup": options.warmup,
        "device": options.device,
    }


def _rows(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    reference = {m.batch: m.times.median for m in measurements if m.engine == REFERENCE}
    return [_row(measurement, reference[measurement.batch]) for measurement in measurements]


def _row(measurement: Measurement, reference: float) -> dict[str, Any]:
    times, control = measurement.times, measurement.control
    return {
        "engine": measurement.engine,
        "batch": measurement.batch,
        "rounds": times.rounds,
        "median_seconds": times.median,
        "p10_seconds": times.p10,
        "p90_seconds": times.p90,
        "images_per_second": measurement.batch / times.median,
        "speedup": reference / times.median,
        "control_median_seconds": control and control.median,
        "gain_from_zeros": control and control.median / times.median,
        "logits_apart": measurement.difference,
        "logits_tolerance": measurement.tolerance,
    }


def _verdict(batch: int, measurements: Sequence[Measurement], sparse_engines: Collection[str]) -> dict[str, Any]:
    """Compare the fastest sparse engine with the fastest dense engine at one batch size.

    Zeros pay if the sparse engine's 90th percentile is below the dense engine's 10th percentile, and do not pay in
    the opposite case; otherwise the verdict is open. Engines below `MIN_SPARSE_SHARE` are ignored: they compute most
    of the network with its zeros.
    """
    of_batch = [m for m in measurements if m.batch == batch]
    sparse = _fastest([m for m in of_batch if m.engine in sparse_engines])
    dense = _fastest([m for m in of_batch if m.engine in DENSE])
    assert dense is not None  # dense torch is always measured
    verdict: dict[str, Any] = {"batch": batch, "dense": dense.engine, "sparse": None, "zeros": None, "speedup": None}
    if sparse is None:
        return verdict
    pay = "pay" if sparse.times.p90 < dense.times.p10 else "open"
    zeros = "do not pay" if sparse.times.p10 > dense.times.p90 else pay
    return verdict | {"sparse": sparse.engine, "zeros": zeros, "speedup": dense.times.median / sparse.times.median}


def _fastest(measurements: Sequence[Measurement]) -> Measurement | None:
    return min(measurements, key=lambda measurement: measurement.times.median, default=None)
