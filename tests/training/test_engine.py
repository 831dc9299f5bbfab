"""The engine: it trains as plain PyTorch does, keeps what is assigned, and finds tensors that differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine_cases import RECIPE, STAGES, engine_at, loss_of, network, train
from pruneboard.training import engine as engine_module
from rank_cases import mask, on_each_rank


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    """Destroy the process group that the engines here start."""
    yield
    engine_module.shutdown()


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("zero", STAGES)
def test_training_equals_plain_torch(zero, clip):
    """At every ZeRO stage, with clipping and without, weights follow torch.optim.SGD up to rounding."""
    plain = network()
    optimizer = torch.optim.SGD(
        [
            {"params": [plain[0].weight, plain[4].weight], "weight_decay": 5e-4},
            {"params": [plain[0].bias, *plain[1].parameters(), plain[4].bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=RECIPE.nesterov,
    )
    for step in range(3):
        optimizer.zero_grad()
        for half in range(2):
            (loss_of(plain, 2 * step + half) / 2).backward()
        if clip:
            nn.utils.clip_grad_norm_(plain.parameters(), clip)
        optimizer.step()
    with engine_at(zero, clip) as engine:
        train(engine, range(3))
        for ours, reference in zip(engine.model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero", STAGES)
def test_what_is_assigned_survives_the_next_step(zero):
    """After `assign` and a step at rate 0 the parameter has the assigned values, to the last bit."""
    with engine_at(zero) as engine:
        train(engine, range(2))
        weight = engine.model[4].weight
        new = torch.arange(weight.numel(), dtype=torch.float32).reshape(weight.shape)
        engine.assign(weight, new)
        assert torch.equal(weight, new)
        for group in engine.groups:
            group["lr"] = 0.0
        train(engine, [2])
        assert torch.equal(weight, new)
        assert engine.first_unassigned(dict(engine.model.named_parameters())) is None


@pytest.mark.parametrize("zero", [1, 2])
def test_an_in_place_write_under_zero_is_found_and_is_undone(zero):
    """The parameter is named, and the next step starts from the old values: the reason for `assign`."""
    with engine_at(zero) as engine:
        train(engine, range(2))
        weight = engine.model[4].weight
        before = weight.detach().clone()
        weight.data[3, 7] += 1
        assert engine.first_unassigned(dict(engine.model.named_parameters())) == "4.weight"
        for group in engine.groups:
            group["lr"] = 0.0
        train(engine, [2])
        assert torch.equal(weight, before)


@pytest.mark.parametrize("zero", STAGES)
def test_optimizer_state_has_the_shape_of_the_parameter(zero):
    """At every stage the momentum is gathered to the parameter's shape, and equals that of stage 0 up to rounding."""
    with engine_at(0) as reference, engine_at(zero) as engine:
        for each in (reference, engine):
            train(each, range(2))
        for ours, theirs in zip(engine.model.parameters(), reference.model.parameters(), strict=True):
            found, expected = engine.optimizer_state(ours), reference.optimizer_state(theirs)
            assert found.keys() == expected.keys() == {"momentum_buffer"}
            torch.testing.assert_close(found["momentum_buffer"], expected["momentum_buffer"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("saved_at", "loaded_at"), [(0, 0), (1, 1), (0, 2), (2, 0)])
def test_optimizer_state_can_be_loaded_at_any_stage(saved_at, loaded_at):
    """Weights and optimizer state of one engine, loaded into another at any stage, give the same next step."""
    with engine_at(saved_at) as first, engine_at(loaded_at) as second:
        train(first, range(2))
        for source, target in zip(first.model.parameters(), second.model.parameters(), strict=True):
            second.assign(target, source.detach())
            second.load_optimizer_state(target, first.optimizer_state(source))
        for each in (first, second):
            train(each, [2])
        for ours, theirs in zip(second.model.parameters(), first.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero", STAGES)
def test_resetting_optimizer_state_zeroes_it_where_the_mask_is_true(zero):
    """Elsewhere, and in other parameters, the momentum keeps its bits."""
    with engine_at(zero) as engine:
        train(engine, range(2))
        parameters = list(engine.model.parameters())
        before = [engine.optimizer_state(p)["momentum_buffer"].clone() for p in parameters]
        mask = torch.arange(parameters[0].numel()).reshape(parameters[0].shape) % 3 == 0
        engine.reset_optimizer_state(parameters[0], mask)
        after = [engine.optimizer_state(p)["momentum_buffer"] for p in parameters]
        assert torch.equal(after[0], before[0].masked_fill(mask, 0))
        assert all(torch.equal(a, b) for a, b in zip(after[1:], before[1:], strict=True))


# Processes that differ


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
