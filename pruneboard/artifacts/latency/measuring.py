"""The walk of `pruneboard latency`: a run's folder in, a document of times out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pruneboard import draws, report
from pruneboard.artifacts.exporting.asked import finished
from pruneboard.artifacts.exporting.subject import checked
from pruneboard.artifacts.latency import document, timing
from pruneboard.artifacts.latency.asked import ENGINES, REFERENCE, Asked
from pruneboard.artifacts.latency.control import filled
from pruneboard.artifacts.latency.document import Available, Clocked
from pruneboard.artifacts.latency.engines import Bench, Engine, make
from pruneboard.errors import ConformanceError, UsageError
from pruneboard.records import provenance


def measure(run: Path, asked: Asked, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Time a finished run's network in every engine and return what `pruneboard latency --json` prints.

    Args:
        run: its folder, or its `run.json`. Nothing is written there.
        asked: engines, batches and budget.
        clock: seconds; by default those of the wall.

    Raises:
        NotFoundError: there is no record.
        UsageError: the run is not done, has no weights, cannot be read or built here, or an engine that was asked
            for cannot be had.
        ConformanceError: the run is disputed, or an engine gives other logits than dense torch.
    """
    folder, record = finished(run, "measured")
    device = _device(asked.device)
    subject = checked(folder, record, "measured")
    load = os.getloadavg()[0]
    with _threads(asked.threads), tempfile.TemporaryDirectory(prefix="pruneboard-latency-") as scratch:
        bench = Bench(subject, filled(subject), device, Path(scratch))
        engines, lacking = _engines(bench, asked.engines)
        with torch.inference_mode():
            found = [clocked for batch in asked.batches for clocked in _clocked(bench, engines, batch, asked, clock)]
        had = {name: Available(engine.about, engine.sparse()) for name, engine in engines.items()}
    hardware = provenance.hardware(device, asked.threads) | {"load": round(load, 2)}
    return document.made(subject, asked, hardware, {**had, **lacking}, found)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, and torch sees no CUDA device: use --device cpu")
    return torch.device(name)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _engines(bench: Bench, names: tuple[str, ...] | None) -> tuple[dict[str, Engine], dict[str, str]]:
    """Return the engines, dense torch first, and for those that cannot be had why not."""
    engines: dict[str, Engine] = {}
    lacking: dict[str, str] = {}
    for name in dict.fromkeys((REFERENCE, *(names or ENGINES))):
        made = _tried(name, bench, optional=names is None)
        if isinstance(made, Engine):
            engines[name] = made
        else:
            lacking[name] = made
    return engines, lacking


def _tried(name: str, bench: Bench, *, optional: bool) -> Engine | str:
    try:
        return make(name, bench)
    except UsageError as error:
        if not optional:
            raise
        return report.printable(error, 300)


def _clocked(
    bench: Bench, engines: dict[str, Engine], batch: int, asked: Asked, clock: Callable[[], float]
) -> list[Clocked]:
    """Hold every engine's logits to dense torch's, then time all of them in turn."""
    images = _images(bench, batch)
    expected, without_zeros = (_logits(engines[REFERENCE], which, images) for which in ("call", "control"))
    apart: dict[str, float] = {}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, engine in engines.items():
        given = engine.prepare(images)
        apart[name] = _apart(engine, _logits(engine, "call", given), expected)
        calls[name, "call"] = _bound(engine.call, given, bench.device)
        if engine.control is not None:
            _apart(engine, _logits(engine, "control", given), without_zeros)
            calls[name, "control"] = _bound(engine.control, given, bench.device)
    times = timing.interleaved(calls, seconds=asked.seconds, rounds=asked.rounds, warmup=asked.warmup, clock=clock)
    return [
        Clocked(
            engine=name,
            batch=batch,
            times=times[name, "call"],
            control=times.get((name, "control")),
            apart=apart[name],
            tolerance=engine.tolerance,
        )
        for name, engine in engines.items()
    ]


def _images(bench: Bench, batch: int) -> Tensor:
    """Return drawn images: how long one takes does not depend on what it shows."""
    size = bench.subject.record["data"]["image_size"]
    generator = torch.Generator().manual_seed(draws.key(0, "latency", batch))
    return torch.randn(batch, 3, size, size, generator=generator).to(bench.device)


def _bound(call: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return lambda: call(images)

    def finished_call() -> None:
        call(images)
        torch.cuda.synchronize(device)

    return finished_call


def _logits(engine: Engine, which: Literal["call", "control"], given: Tensor) -> Tensor:
    """Return the logits of an engine's first call.

    Raises:
        UsageError: it fails, as where memory is short.
    """
    call = getattr(engine, which)
    try:
        logits: Tensor = call(given)
    except (RuntimeError, MemoryError) as error:
        said = report.printable(f"{type(error).__name__}: {error}", 300)
        raise UsageError(
            f"engine {engine.name} fails at batch {len(given)} ({said}): name other engines or batches"
        ) from None
    return logits


def _apart(engine: Engine, found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest logit or of 1.

    Raises:
        ConformanceError: it is above the tolerance, or no number.
    """
    scale = max(1.0, float(expected.abs().max()))
    apart = float((found.float() - expected).abs().max()) / scale
    if not apart <= engine.tolerance:
        raise ConformanceError(
            f"engine {engine.name} gives logits {apart:.3g} of the largest from dense torch's at batch {len(found)}, "
            f"where {engine.tolerance:g} may be: not timed"
        )
    return apart
