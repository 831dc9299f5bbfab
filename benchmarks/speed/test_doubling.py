"""Check that twice the work takes twice the time, for steps, weights and records."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import batch_of, training
from test_projection import Case

from pruneboard.training import loop
from pruneboard_probmask import ProbabilityGate

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from scale import write


@pytest.fixture
def doubling(benchmark):
    """Return a function that times some work at every size, in turn in each round, and stores a curve for the page.

    The timed function returns its own duration in seconds, measured with `doubling.clock`.
    """
    clock = benchmark._timer

    def run(what, unit, work, sizes, *, rounds, note=""):
        seconds = {size: [] for size in sizes}
        work(sizes[0])

        def all_sizes():
            for size in sizes:
                seconds[size].append(work(size))

        benchmark.pedantic(all_sizes, rounds=rounds, iterations=1)
        benchmark.extra_info |= {
            "section": "doubling",
            "what": what,
            "unit": unit,
            "sizes": sizes,
            "seconds": [statistics.median(seconds[size]) for size in sizes],
            "doublings": [
                statistics.median(b / a for a, b in zip(seconds[low], seconds[high], strict=True))
                for low, high in itertools.pairwise(sizes)
            ],
            "note": note,
            "clock": "wall" if clock is time.perf_counter else "processor",
        }

    run.draw_key = clock
    return run


def timed(clock, work):
    """Return the duration of `work` in seconds."""
    start = clock()
    work()
    return clock() - start


def test_steps(doubling, rounds):
    """Training steps of the smallest network."""
    run = training("magnitude", "resnet8_cifar", batch=16)
    batches = batch_of(run)

    def steps(count):
        return timed(doubling.clock, lambda: [loop.train_step(run, 1, batches) for _ in range(count)])

    doubling("training steps, resnet8_cifar, batch 16", "steps", steps, [10, 20, 40, 80], rounds=rounds(7))
    run.engine.close()


def test_weights_of_a_projection(doubling, rounds):
    """ProbMask's projection over layers of a million weights, one Adam step after the last projection."""
    cases = {count * 2**20: Case([(1024, 1024)] * count) for count in (4, 8, 16, 32)}

    def project(n):
        cases[n].before()
        start = clock()
        cases[n].ours()
        return clock() - start

    clock = doubling.clock
    doubling("projection, layers of 1,048,576 weights", "weights", project, list(cases), rounds=rounds(9))


def test_weights_of_a_mask(doubling, rounds):
    """A forward and backward pass through ProbMask's gates on layers of a million weights."""
    generator = torch.Generator().manual_seed(0)

    def layer():
        weight = torch.randn(1024, 1024, generator=generator)
        gate = ProbabilityGate(weight, learn=True)
        gate.probability.data.uniform_(0.01, 0.99, generator=generator)
        gate.refresh()
        gate._source = lambda: generator
        return gate, weight.requires_grad_()

    layers = [layer() for _ in range(64)]

    def one_pass(n):
        gated = layers[: n // 2**20]
        made = [gate(weight) for gate, weight in gated]  # all forward passes first, as in a network
        inputs = [tensor for gate, weight in gated for tensor in (weight, gate.probability)]
        torch.autograd.grad(made, inputs, [weight.detach() for _, weight in gated])

    doubling(
        "relaxed masks, forward and backward, layers of 1,048,576 weights",
        "weights",
        lambda n: timed(doubling.clock, lambda: one_pass(n)),
        [count * 2**20 for count in (8, 16, 32, 64)],
        rounds=rounds(9),
    )


def test_records(doubling, rounds, tmp_path):
    """`pruneboard compare`, minus its time for one record, so that only the part that grows is measured."""
    sizes = [1000, 2000, 4000]
    for size in [1, *sizes]:
        write(tmp_path / str(size), size)

    def compare(size):
        command = [sys.executable, "-m", "pruneboard", "compare", str(tmp_path / str(size)), "--format", "csv,json"]
        return timed(doubling.clock, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))

    fixed = statistics.median(compare(1) for _ in range(3))
    doubling(
        "`pruneboard compare --format csv,json`",
        "records",
        lambda size: compare(size) - fixed,
        sizes,
        rounds=rounds(3, 1),
        note=f"minus the {fixed:.2f} s for one record",
    )
