"""Freed memory is kept for the next step, and returned to the system between runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pruneboard.processes import memory

PAGES = 10_000
"""Pages of one allocation: more than the 32 MiB up to which glibc adapts and keeps blocks by itself."""

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
for _ in range({ROUNDS}):  # the heap may grow a few times before a freed block is in the right place
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
    """Return the page faults of the rounds, and by how many bytes one more round raises the peak."""
    command = [sys.executable, "-c", CODE, *arguments]
    variables = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return tuple(map(int, done.stdout.split()))


def test_kept_memory_is_used_again():
    """By default every allocation faults in its pages; with `keep_freed_memory`, none does after the first ten."""
    assert run()[0] >= ROUNDS * PAGES
    assert run("keep")[0] < 0.5 * PAGES


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("keep",)])
def test_the_peak_excludes_what_an_earlier_run_freed(arguments):
    """Resetting the peak returns kept memory to the system, so that the next allocation raises the peak."""
    assert run(*arguments)[1] >= 0.9 * PAGES * 4096


def test_the_users_setting_has_priority():
    """If the environment sets how malloc works, `keep_freed_memory` changes nothing."""
    assert run("keep", MALLOC_MMAP_THRESHOLD_="131072")[0] >= ROUNDS * PAGES


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDNN_STATUS_ALLOC_FAILED"), False),
    ],
)
def test_errors_of_every_allocator_are_recognized(error, expected):
    """The allocation errors of Python, torch, cuBLAS, cuDNN and the driver are recognized, and no other error is."""
    assert memory.is_out_of_memory(error) is expected


def test_an_allocation_that_the_cpu_refuses_is_recognized():
    """The error that torch really raises for a tensor of an exabyte."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)
