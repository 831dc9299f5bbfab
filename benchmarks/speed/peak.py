"""The most memory that a method's steps take, in a process of its own: `python peak.py METHOD TRACK [KEY=VALUE]`.

Prints JSON: bytes resident above what was before the network was built, for two steps and for the selection of masks.
"""

from __future__ import annotations

import ctypes
import json
import sys

import deepspeed  # noqa: F401 - its own memory is no method's
import torch
from cases import STEPS, batch_of, bring, training

from pruneboard.processes.memory import peak_memory_bytes, reset_peak_memory
from pruneboard.testing.bench import Bench, KeepsAll, finish
from pruneboard.training import loop

CPU = torch.device("cpu")


def resident() -> int:
    """Return the bytes resident now: a peak that has just been forgotten starts from them."""
    reset_peak_memory(CPU)
    return peak_memory_bytes(CPU)


def main(method: str, track: str, fraction: str, *options: str) -> None:
    """Measure one method on a ResNet-18 of 32 px at batch 8, where weights outweigh activations."""
    torch.set_num_threads(1)
    finish(Bench(KeepsAll(sparsity=0.0), "prune").ready())  # so that everything is loaded
    named = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    before = resident()
    run = training(method, "resnet18", batch=8, track=track, stem="stock", **named)
    batches, step = batch_of(run), round(float(fraction) * STEPS)
    bring(run, step)
    selecting = peak_memory_bytes(CPU) - before
    ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps of the selection is nothing that steps need
    reset_peak_memory(CPU)
    for _ in range(2):
        loop.train_step(run, step, batches)
    found = {"steps": peak_memory_bytes(CPU) - before, "selecting": selecting}
    print(json.dumps(found | {"weights": sum(layer.dense.numel() for layer in run.layers)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
