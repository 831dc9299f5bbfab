"""What processes do that tests start inside a rehearsal."""

from __future__ import annotations

import os

import torch
from torch import distributed as dist

from pruneboard.errors import UsageError
from pruneboard.experiment import lifecycle, listeners


def add_over_processes(rank):
    """Return this process's GPU, the sums over two processes of tensors on GPUs and on CPUs, and NCCL's error."""
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), 2, is_master=rank == 0)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=2)
    values = torch.full((4,), float(rank + 1), device=device)
    dist.all_reduce(values)
    try:
        dist.all_reduce(torch.ones(4))
        error = None
    except RuntimeError as found:
        error = str(found)
    group = dist.new_group(backend="gloo")
    on_host = torch.ones(2)
    dist.all_reduce(on_host, group=group)
    dist.destroy_process_group()
    return torch.cuda.get_device_name(), values.tolist(), on_host.tolist(), error


def serve_addition(pipe, rank, variables):
    """Call `add_over_processes` in a child process."""
    os.environ.update(variables)
    return add_over_processes(rank)


def runs_of_a_task(pipe, attempts):
    """Carry out runs as one task of a job step: for each (environment variables, spec) the GPU, or the refusal."""
    results = []
    for variables, spec in attempts:
        os.environ.update(variables)
        try:
            record = lifecycle.run(spec)
            results.append(torch.cuda.get_device_name() if record["engine"]["world_size"] == 2 else "alone")
        except UsageError as error:
            results.append(str(error))
    return results


def run_all(jobs):
    """Carry out one job after another as one of several processes; rank 0's records are returned."""
    return [lifecycle.execute_safely(job, listeners.NullListener()) for job in jobs]
