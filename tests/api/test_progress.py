"""The position in a run: the completed share of the search, keyed generators, and durable writes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from api_cases import Calls, layer, progress


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_fraction_rises_from_zero_to_one(harden_step, more):
    """It is `step / harden_step` during the search and 1 from `harden_step` on."""
    total = harden_step + more
    steps = sorted({0, harden_step // 3, harden_step // 2, max(0, harden_step - 1), harden_step, total})
    fractions = [progress(step, harden_step, total).fraction for step in steps]
    assert all(0 <= low <= high <= 1 for low, high in itertools.pairwise(fractions))
    assert fractions[0] == (0 if harden_step else 1)
    assert progress(harden_step, harden_step, total).fraction == 1.0
    assert all(f * harden_step == pytest.approx(s) for f, s in zip(fractions, steps, strict=True) if s < harden_step)


def test_a_method_without_search_is_complete_at_step_zero():
    """If masks are fixed before the first step, the fraction is 1 and is not divided by zero."""
    assert progress(0, harden_step=0).fraction == 1.0


def test_generators_are_keyed_on_the_layer():
    """Each layer, and no layer, has its own numbers; a second call starts from the same key."""
    at = progress(0)
    drawn = [torch.rand(4, generator=at.generator(one)).tolist() for one in (None, layer(0), layer(1))]
    assert len({tuple(numbers) for numbers in drawn}) == 3
    assert torch.rand(4, generator=at.generator(layer(1))).tolist() == drawn[2]
    assert at.generator().device.type == "cpu"


def test_writes_go_to_the_engine():
    """Both writes are passed on with the same tensors, in order, and change nothing by themselves."""
    engine, one = Calls(), layer()
    at = progress(3, engine=engine)
    before = one.dense.detach().clone()
    new, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    at.assign(one.dense, new)
    at.reset_optimizer_state(one.dense, mask)
    (first, second) = engine.seen
    assert first[0] == "assign"
    assert first[1] is one.dense
    assert first[2] is new
    assert second[0] == "reset"
    assert second[1] is one.dense
    assert second[2] is mask
    assert torch.equal(one.dense, before)


def test_the_position_is_frozen():
    """A hook cannot move the run."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        progress(0).step = 5  # type: ignore[misc]
