"""What a measurement says, plain JSON: the run, the machine, versions, settings, times, and whether zeros pay."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneboard.artifacts.exporting.subject import Subject
from pruneboard.artifacts.latency.asked import DENSE, REFERENCE, Asked
from pruneboard.artifacts.latency.timing import Times
from pruneboard.records import provenance

SCHEMA = 1

PACKAGES = ("pruneboard", "torch", "timm", "numpy", "scipy", "onnxruntime")


ENOUGH = 0.5
"""Share of the multiply-adds that an engine computes without zeros, from which on its time speaks for zeros."""


@dataclass(frozen=True)
class Available:
    """An engine that was measured.

    Attributes:
        about: what it does.
        sparse: names of the layers that it computes without their zeros.
    """

    about: str
    sparse: Sequence[str]


@dataclass(frozen=True)
class Clocked:
    """One engine with one batch.

    Attributes:
        engine: its name.
        batch: images per call.
        times: of the run's network.
        control: of the same network without zeros; None where the engine has no such form.
        apart: largest difference of its logits from dense torch's, as a share of the largest of those or of 1.
        tolerance: how large that may be.
    """

    engine: str
    batch: int
    times: Times
    control: Times | None
    apart: float
    tolerance: float


def made(
    subject: Subject,
    asked: Asked,
    hardware: dict[str, Any],
    engines: Mapping[str, Available | str],
    found: Sequence[Clocked],
) -> dict[str, Any]:
    """Return the document.

    Args:
        subject: what was measured.
        asked: how.
        hardware: where.
        engines: by name; a text says why one cannot be had.
        found: every engine with every batch, dense torch among them.
    """
    software = {"python": platform.python_version()} | {name: provenance.version_of(name) for name in PACKAGES}
    described = {name: _engine(subject, engine) for name, engine in engines.items()}
    speaking = {name for name, engine in described.items() if (engine["sparse_share"] or 0) >= ENOUGH}
    return {
        "schema": SCHEMA,
        "run": _identity(subject),
        "hardware": hardware,
        "software": software,
        "settings": _settings(asked),
        "engines": described,
        "timings": _rows(found),
        "verdicts": [_verdict(batch, [c for c in found if c.batch == batch], speaking) for batch in asked.batches],
    }


def _engine(subject: Subject, engine: Available | str) -> dict[str, Any]:
    """Return whether an engine can be had, and how much of the network it computes without zeros."""
    if isinstance(engine, str):
        return {"available": False, "note": engine, "sparse_layers": None, "sparse_share": None}
    layers = subject.record["sparsity"]["layers"]
    macs = {layer["name"]: layer["n"] * layer["positions"] for layer in layers}
    sparse = sorted(macs.keys() & set(engine.sparse), key=list(macs).index)
    share = sum(macs[name] for name in sparse) / max(1, sum(macs.values()))
    return {"available": True, "note": engine.about, "sparse_layers": sparse, "sparse_share": share}


def _identity(subject: Subject) -> dict[str, Any]:
    record = subject.record
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


def _settings(asked: Asked) -> dict[str, Any]:
    return {
        "engines": list(asked.engines) if asked.engines is not None else None,
        "batches": list(asked.batches),
        "threads": asked.threads,
        "seconds": asked.seconds if asked.rounds is None else None,
        "rounds": asked.rounds,
        "warmup": asked.warmup,
        "device": asked.device,
    }


def _rows(found: Sequence[Clocked]) -> list[dict[str, Any]]:
    reference = {clocked.batch: clocked.times.median for clocked in found if clocked.engine == REFERENCE}
    return [_row(clocked, reference[clocked.batch]) for clocked in found]


def _row(clocked: Clocked, reference: float) -> dict[str, Any]:
    times, control = clocked.times, clocked.control
    return {
        "engine": clocked.engine,
        "batch": clocked.batch,
        "rounds": times.rounds,
        "median_seconds": times.median,
        "p10_seconds": times.p10,
        "p90_seconds": times.p90,
        "images_per_second": clocked.batch / times.median,
        "speedup": reference / times.median,
        "control_median_seconds": control and control.median,
        "gain_from_zeros": control and control.median / times.median,
        "logits_apart": clocked.apart,
        "logits_tolerance": clocked.tolerance,
    }


def _verdict(batch: int, found: Sequence[Clocked], speaking: Collection[str]) -> dict[str, Any]:
    """Hold the fastest engine that leaves zeros out to the fastest that does not.

    They pay where nine in ten of its times are below nine in ten of the other's, and the reverse; what lies between
    is left open. An engine that leaves them out in a small part of the network says nothing of zeros.
    """
    sparse = _fastest([clocked for clocked in found if clocked.engine in speaking])
    dense = _fastest([clocked for clocked in found if clocked.engine in DENSE])
    assert dense is not None  # torch is always among them
    said: dict[str, Any] = {"batch": batch, "dense": dense.engine, "sparse": None, "zeros": None, "speedup": None}
    if sparse is None:
        return said
    pay = "pay" if sparse.times.p90 < dense.times.p10 else "open"
    zeros = "do not pay" if sparse.times.p10 > dense.times.p90 else pay
    return said | {"sparse": sparse.engine, "zeros": zeros, "speedup": dense.times.median / sparse.times.median}


def _fastest(found: Sequence[Clocked]) -> Clocked | None:
    return min(found, key=lambda clocked: clocked.times.median, default=None)
