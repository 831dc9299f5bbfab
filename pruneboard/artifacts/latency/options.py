"""The options of a latency measurement: engines, batch sizes, threads and time budget. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pruneboard.artifacts.choices import Choices

REFERENCE = "torch"
"""The dense network as it was trained, in eager mode; always measured, because every speedup is relative to it."""

ENGINES = Choices(
    "engine",
    (REFERENCE, "torch-csr", "scipy-csr", "onnxruntime", "torch-2:4"),
    {"onnxruntime": ("onnx", "onnxscript", "onnxruntime")},
)

DENSE = (REFERENCE, "onnxruntime")
"""The engines that compute with every zero."""


@dataclass(frozen=True)
class LatencyOptions:
    """What to measure, and for how long.

    Attributes:
        engines: names of `ENGINES`. None measures every engine that is available here, and notes for each other one
            why it is not.
        batches: batch sizes in images; each is measured separately.
        threads: threads of every engine that can use more than one.
        seconds: time budget of the rounds of each batch size; a minimum number of rounds is always taken.
        rounds: exact number of rounds, instead of a time budget.
        warmup: untimed calls of every engine before the first round.
        device: `cpu` or `cuda`.
    """

    engines: tuple[str, ...] | None = None
    batches: tuple[int, ...] = (1, 64)
    threads: int = 1
    seconds: float = 10.0
    rounds: int | None = None
    warmup: int = 2
    device: str = "cpu"
