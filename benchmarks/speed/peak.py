"""Measure the peak memory of a method in its own process: `python peak.py METHOD TRACK FRACTION [KEY=VALUE]`.

Prints JSON with the peak resident bytes, beyond those before the network was built, of two steps and of mask selection.
"""

from __future__ import annotations

import ctypes
import json
import sys

import deepspeed  # noqa: F401 - imported first, so that its own memory is not counted
import torch
from cases import STEPS, batch_of, bring, training

from pruneboard.processes.memory import peak_memory_bytes, reset_peak_memory
from pruneboard.testing.trial import KeepAll, Trial, finish
from pruneboard.training import loop

CPU = torch.device("cpu")


def resident() -> int:
    """Return the resident bytes now: after the peak is reset, it equals the current value."""
    reset_peak_memory(CPU)
    return peak_memory_bytes(CPU)


def main(method: str, track: str, fraction: str, *options: str) -> None:
    """Measure one method on a ResNet-18 at 32 px and batch 8, where weights take more memory than activations."""
    torch.set_num_threads(1)
    finish(Trial(KeepAll(sparsity=0.0), "prune").build())  # loads every module that a step needs
    named = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    before = resident()
    run = training(method, "resnet18", batch=8, track=track, stem="stock", **named)
    batches, step = batch_of(run), round(float(fraction) * STEPS)
    bring(run, step)
    selecting = peak_memory_bytes(CPU) - before
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system, so that the steps are measured alone
    reset_peak_memory(CPU)
    for _ in range(2):
        loop.train_step(run, step, batches)
    found = {"steps": peak_memory_bytes(CPU) - before, "selecting": selecting}
    print(json.dumps(found | {"weights": sum(layer.dense.numel() for layer in run.layers)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
