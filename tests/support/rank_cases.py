"""Engines of several ranks in threads of one process, with real all-reduces."""

from __future__ import annotations

import threading

import torch
from torch import distributed

from pruneboard.errors import AuditError
from pruneboard.training.engine import Engine


class Comm:
    """DeepSpeed's collectives over a gloo group of threads: the same reductions without processes."""

    ReduceOp = distributed.ReduceOp

    def __init__(self, store, rank, world):
        self.group = distributed.ProcessGroupGloo(store, rank, world)

    def all_reduce(self, tensor, op=distributed.ReduceOp.SUM):
        options = distributed.AllreduceOptions()
        options.reduceOp = op
        self.group.allreduce([tensor], options).wait()


def on_each_rank(call, world=2):
    """Return what `call(engine, rank)` returns or raises on every rank, with real all-reduces between them."""
    store, results = distributed.HashStore(), [None] * world

    def work(rank):
        engine = object.__new__(Engine)  # only its collectives are used: nothing is trained
        engine.world, engine.rank, engine.device = world, rank, torch.device("cpu")
        engine._comm = Comm(store, rank, world)
        try:
            results[rank] = call(engine, rank)
        except AuditError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def mask(*kept):
    """Return a mask of ten positions that keeps `kept`."""
    return torch.zeros(10).index_fill(0, torch.tensor(kept, dtype=torch.int64), 1)
