"""Processes that must hold the same masks: what differs between them is found, wherever it is."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from pruneboard.api import Mask
from pruneboard.errors import AuditError
from pruneboard.training.engine import Engine
from pruneboard.training.loop import check_ranks_agree


class Comm:
    """DeepSpeed's collectives on a gloo group of threads: the same reductions, without starting processes."""

    ReduceOp = distributed.ReduceOp

    def __init__(self, store, rank, world):
        self.group = distributed.ProcessGroupGloo(store, rank, world)

    def all_reduce(self, tensor, op=distributed.ReduceOp.SUM):
        options = distributed.AllreduceOptions()
        options.reduceOp = op
        self.group.allreduce([tensor], options).wait()


def on_each_rank(call, world=2):
    """Return what `call(engine, rank)` returned or raised on every rank, under real all-reduces."""
    store, results = distributed.HashStore(), [None] * world

    def work(rank):
        engine = object.__new__(Engine)  # the collectives only: nothing is trained
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


def first_difference(*versions):
    """Return the name found when rank i holds `versions[i]`, the same on every rank."""
    found = on_each_rank(lambda engine, rank: engine.first_difference(versions[rank]), len(versions))
    assert len(set(found)) == 1
    return found[0]


def mask(*kept):
    """A mask of ten positions."""
    return torch.zeros(10).index_fill(0, torch.tensor(kept, dtype=torch.int64), 1)


def test_equal_tensors_do_not_differ():
    """Whatever the layout, the same values on every rank are the same."""
    image = torch.randn(2, 3, 4, 4)
    held = {"mask": mask(1, 5), "image": image, "count": torch.tensor(3), "none": torch.empty(0)}
    other = {**held, "image": image.to(memory_format=torch.channels_last)}
    assert first_difference(held, other) is None
    assert first_difference(held, other, held) is None


@pytest.mark.parametrize("other", [mask(1, 6), mask(1, 5, 6), mask(), mask(2, 4), mask(0, 5)])
def test_masks_that_differ_are_found_even_with_equal_counts(other):
    """Two ranks with as many kept positions at other places do not agree; the tensor is named."""
    assert first_difference({"a": mask(3), "b": mask(1, 5)}, {"a": mask(3), "b": other}) == "b"


def test_one_unit_in_the_last_place_is_a_difference():
    """Values that print alike are told apart, in every type a network holds."""
    for value in (torch.ones(5), torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.bfloat16)):
        near = value.clone()
        near[3] = torch.nextafter(near[3], near[3] + 1)
        assert first_difference({"x": value}, {"x": near}) == "x"
    assert first_difference({"x": torch.tensor([True, False])}, {"x": torch.tensor([False, True])}) == "x"
    assert first_difference({"x": torch.tensor([0.0])}, {"x": torch.tensor([-0.0])}) == "x"


def test_a_run_whose_masks_differ_is_stopped_on_every_process():
    """Masks that are not the same everywhere are an AuditError that names method, tensor and step."""

    def check(engine, rank):
        gate = Mask(torch.ones(10))
        gate.set(mask(1, 5 + rank))
        engine.model = torch.nn.Linear(1, 1)
        engine.model.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        layers = [SimpleNamespace(name="fc", gate=gate)]
        check_ranks_agree(SimpleNamespace(engine=engine, method="drifting", layers=layers), 7)

    for error in on_each_rank(check):
        assert str(error) == "method drifting: tensor fc/keep differs between processes at step 7"
