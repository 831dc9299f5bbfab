"""The engine: tensors that differ between processes, and writes under ZeRO."""

from __future__ import annotations

import pytest
import torch

from rank_cases import mask, on_each_rank


def first_difference(*versions):
    """Return the name that every rank finds when rank i has the tensors `versions[i]`."""
    found = on_each_rank(lambda engine, rank: engine.first_difference(versions[rank]), len(versions))
    assert len(set(found)) == 1
    return found[0]


def test_equal_tensors_do_not_differ():
    """Equal values do not differ, whatever their memory layout."""
    image = torch.randn(2, 3, 4, 4)
    held = {"mask": mask(1, 5), "image": image, "count": torch.tensor(3), "none": torch.empty(0)}
    other = {**held, "image": image.to(memory_format=torch.channels_last)}
    assert first_difference(held, other) is None
    assert first_difference(held, other, held) is None


@pytest.mark.parametrize("other", [mask(1, 6), mask(1, 5, 6), mask(), mask(2, 4), mask(0, 5)])
def test_masks_that_differ_are_found_even_with_equal_counts(other):
    """Two masks with as many kept positions at other places differ, and the tensor is named."""
    assert first_difference({"a": mask(3), "b": mask(1, 5)}, {"a": mask(3), "b": other}) == "b"


def test_one_unit_in_the_last_place_is_a_difference():
    """A difference of one bit is found in every dtype that a network has."""
    for value in (torch.ones(5), torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.bfloat16)):
        near = value.clone()
        near[3] = torch.nextafter(near[3], near[3] + 1)
        assert first_difference({"x": value}, {"x": near}) == "x"
    assert first_difference({"x": torch.tensor([True, False])}, {"x": torch.tensor([False, True])}) == "x"
    assert first_difference({"x": torch.tensor([0.0])}, {"x": torch.tensor([-0.0])}) == "x"
