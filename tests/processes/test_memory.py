"""Freed memory is kept for the next step, and goes back between runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = 10_000
"""Of one allocation: above the 32 MiB up to which glibc would learn to keep blocks by itself."""

ROUNDS = 10

CODE = f"""
import resource, sys
import torch
from pruneboard.processes import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
    torch.empty({PAGES} * 1024).fill_(1)

if "keep" in sys.argv:
    memory.keep_freed_memory()
fill()
before = faults()
for _ in range({ROUNDS}):
    fill()
found = faults() - before
memory.reset_peak_memory(torch.device("cpu"))
start = memory.peak_memory_bytes("cpu")
fill()
print(found, memory.peak_memory_bytes("cpu") - start)
"""


def run(*arguments, **environment):
    """Page faults of the rounds, and by how many bytes the peak of one more exceeds what was in use before it."""
    command = [sys.executable, "-c", CODE, *arguments]
    variables = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return tuple(map(int, done.stdout.split()))


def test_kept_memory_is_not_fetched_anew():
    """Without `keep_freed_memory` every one of ten allocations fetches all its pages; with it at most one more does."""
    assert run()[0] >= ROUNDS * PAGES
    assert run("keep")[0] < 1.5 * PAGES


@pytest.mark.parametrize("arguments", [(), ("keep",)])
def test_the_peak_of_a_run_does_not_hold_what_an_earlier_one_freed(arguments):
    """When the peak is forgotten kept memory goes back, so what is used next counts as used."""
    assert run(*arguments)[1] >= 0.9 * PAGES * 4096


def test_the_users_own_setting_stays():
    """Where the environment says how to allocate, that is how."""
    assert run("keep", MALLOC_MMAP_THRESHOLD_="131072")[0] >= ROUNDS * PAGES
