"""Measure a run: check it, build the engines, compare their logits with dense torch's, and time them in rounds."""

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

from pruneboard import draws
from pruneboard.artifacts import finished_run
from pruneboard.artifacts.latency import document
from pruneboard.artifacts.latency.dense_control import fill_zeros
from pruneboard.artifacts.latency.document import MeasuredEngine, Measurement
from pruneboard.artifacts.latency.engines import Engine, EngineInputs, build_engine
from pruneboard.artifacts.latency.options import ENGINES, REFERENCE, LatencyOptions
from pruneboard.artifacts.latency.timing import time_interleaved
from pruneboard.errors import ConformanceError, UsageError, printable
from pruneboard.records import provenance

Clock = Callable[[], float]


def measure(run: Path, options: LatencyOptions, clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Time a finished run's network in every engine, and return the document that `pruneboard latency --json` prints.

    Args:
        run: the run's folder, or its `run.json`. Nothing is written there.
        options: engines, batch sizes and time budget.
        clock: returns seconds; wall-clock time by default.

    Raises:
        NotFoundError: there is no record.
        UsageError: the run is not done, has no weights, or cannot be read or built here; or a requested engine is not
            available.
        ConformanceError: the run is disputed, or an engine's logits differ from dense torch's.
    """
    folder, record = finished_run.find(run, "measured")
    device = _device(options.device)
    loaded = finished_run.load(folder, record, "measured")
    load = os.getloadavg()[0]
    with _threads(options.threads), tempfile.TemporaryDirectory(prefix="pruneboard-latency-") as scratch:
        inputs = EngineInputs(loaded, fill_zeros(loaded), device, Path(scratch))
        engines, unavailable = _build_engines(inputs, options.engines)
        with torch.inference_mode():
            measurements = [m for batch in options.batches for m in _measure(inputs, engines, batch, options, clock)]
        measured = {name: MeasuredEngine(engine.note, engine.sparse()) for name, engine in engines.items()}
    hardware = provenance.hardware(device, options.threads) | {"load": round(load, 2)}
    return document.build(loaded, options, hardware, {**measured, **unavailable}, measurements)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was requested, but torch finds no CUDA device: use --device cpu")
    return torch.device(name)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _build_engines(inputs: EngineInputs, names: tuple[str, ...] | None) -> tuple[dict[str, Engine], dict[str, str]]:
    """Return the available engines, dense torch first, and the reason for each that is unavailable."""
    engines: dict[str, Engine] = {}
    unavailable: dict[str, str] = {}
    for name in dict.fromkeys((REFERENCE, *(names or ENGINES.names))):
        built = _try_build(name, inputs, optional=names is None)
        if isinstance(built, Engine):
            engines[name] = built
        else:
            unavailable[name] = built
    return engines, unavailable


def _try_build(name: str, inputs: EngineInputs, *, optional: bool) -> Engine | str:
    try:
        return build_engine(name, inputs)
    except UsageError as error:
        if not optional:
            raise
        return printable(error, 300)


def _measure(
    inputs: EngineInputs, engines: dict[str, Engine], batch: int, options: LatencyOptions, clock: Clock
) -> list[Measurement]:
    """Compare every engine's logits with dense torch's, then time all engines in interleaved rounds."""
    images = _images(inputs, batch)
    expected, expected_control = (_logits(engines[REFERENCE], which, images) for which in ("call", "control"))
    differences: dict[str, float] = {}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, engine in engines.items():
        prepared = engine.prepare(images)
        differences[name] = _compare(engine, _logits(engine, "call", prepared), expected)
        calls[name, "call"] = _bind(engine.call, prepared, inputs.device)
        if engine.control is not None:
            _compare(engine, _logits(engine, "control", prepared), expected_control)
            calls[name, "control"] = _bind(engine.control, prepared, inputs.device)
    times = time_interleaved(calls, seconds=options.seconds, rounds=options.rounds, warmup=options.warmup, clock=clock)
    return [
        Measurement(
            engine=name,
            batch=batch,
            times=times[name, "call"],
            control=times.get((name, "control")),
            difference=differences[name],
            tolerance=engine.tolerance,
        )
        for name, engine in engines.items()
    ]


def _images(inputs: EngineInputs, batch: int) -> Tensor:
    """Return random images [batch, 3, size, size]: the time of a network does not depend on their content."""
    size = inputs.run.record["data"]["image_size"]
    generator = torch.Generator().manual_seed(draws.key(0, "latency", batch))
    return torch.randn(batch, 3, size, size, generator=generator).to(inputs.device)


def _bind(call: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Callable[[], object]:
    """Return a function without arguments that calls an engine and waits until the device is done."""
    if device.type != "cuda":
        return lambda: call(images)

    def call_and_synchronize() -> None:
        call(images)
        torch.cuda.synchronize(device)

    return call_and_synchronize


def _logits(engine: Engine, which: Literal["call", "control"], images: Tensor) -> Tensor:
    """Return the logits of an engine's first call.

    Raises:
        UsageError: the call fails, for example because memory is short.
    """
    call = getattr(engine, which)
    try:
        logits: Tensor = call(images)
    except (RuntimeError, MemoryError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 300)
        raise UsageError(
            f"engine {engine.name} fails at batch {len(images)} ({reason}): choose other engines or batches"
        ) from None
    return logits


def _compare(engine: Engine, logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference between logits [batch, classes], relative to the largest logit or to 1.

    Raises:
        ConformanceError: it is above the engine's tolerance, or NaN.
    """
    scale = max(1.0, float(expected.abs().max()))
    difference = float((logits.float() - expected).abs().max()) / scale
    if not difference <= engine.tolerance:
        raise ConformanceError(
            f"engine {engine.name} was not timed: at batch {len(logits)} its logits differ from dense torch's by "
            f"{difference:.3g} of the largest; at most {engine.tolerance:g} is allowed"
        )
    return difference
