"""Peak memory of a process: of one run, not of an earlier one or of the parent."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch

from pruneboard.processes.memory import peak_memory_bytes, reset_peak_memory


def test_peak_memory_is_in_bytes():
    """The peak is larger than a tensor that the process holds, and smaller than a terabyte."""
    block = torch.ones(8 * 2**20)
    assert block.nbytes < peak_memory_bytes("cpu") < 2**40


def test_a_peak_can_be_reset():
    """Memory that was freed before the reset does not count: a process may do one run after another."""
    torch.ones(128 * 2**20).sum()
    before = peak_memory_bytes("cpu")
    reset_peak_memory(torch.device("cpu"))
    after = peak_memory_bytes("cpu")
    assert after < before - 2**28
    torch.ones(64 * 2**20).sum()
    assert peak_memory_bytes("cpu") > after + 2**27


@pytest.mark.slow
def test_a_child_process_has_its_own_peak():
    """The peak is not that of the parent process, from which the system's `ru_maxrss` starts."""
    block = torch.ones(128 * 2**20)
    code = "from pruneboard.processes.memory import peak_memory_bytes; import torch; block = torch.ones(2**20)"
    code += "; print(peak_memory_bytes('cpu'), int(open('/proc/self/statm').read().split()[1]) * 4096)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, resident = map(int, done.stdout.split())
    assert peak < resident + block.nbytes / 2


def test_the_peak_of_a_gpu_includes_the_parameters(cuda):
    """On a GPU the peak is that of tensors."""
    model = timm.create_model("test_resnet").cuda()
    assert peak_memory_bytes("cuda") >= sum(p.nbytes for p in model.parameters())
