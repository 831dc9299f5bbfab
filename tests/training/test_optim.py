"""The optimizer with a rule per group, compared with torch's own; frozen groups, schedule, parameter groups."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruneboard import models
from pruneboard.api import Gate, GateOptimizer, MaskPruner, Pruner
from pruneboard.spec import Recipe
from pruneboard.training.gates import DrawKey, attach, gate_parameters
from pruneboard.training.optim import (
    GATES,
    GroupedOptimizer,
    freeze_gates,
    parameter_groups,
    schedule,
    set_learning_rates,
)

RECIPE = Recipe(name="x", epochs=1, batch_size=1, lr=0.1, image_size=8, weight_decay=5e-4, norm_weight_decay=1e-5)
SHAPES = [(3, 4), (5,), (2, 3, 2, 2)]
STEPS = 6


class Learned(Gate):
    """Has one trainable parameter of the weight's shape, and one that is frozen."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones_like(weight))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.weight * self.fixed


@dataclass(frozen=True, kw_only=True)
class WithLearnedGates(Pruner[Learned]):
    """Uses the gate above."""

    def gate(self, weight: Tensor) -> Learned:
        return Learned(weight)


@dataclass(frozen=True, kw_only=True)
class WithMasks(MaskPruner):
    """Uses plain masks."""


def tensors(seed) -> list[Tensor]:
    """Return normal tensors of the test's shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def parameters() -> list[nn.Parameter]:
    """Return parameters with the same values at every call."""
    return [nn.Parameter(tensor) for tensor in tensors(0)]


def group(params, rule="sgd", **changes):
    """Return one group as `parameter_groups` builds it."""
    return {"name": "weights", "params": params, "rule": rule, "lr": 0.1, "peak_lr": 0.1, "weight_decay": 0.0} | changes


def train(optimizer, params, *, skip=()) -> None:
    """Take some steps with normal gradients and changing rates; `skip` lists (step, parameter) without a gradient."""
    for step in range(STEPS):
        for index, (parameter, gradient) in enumerate(zip(params, tensors(100 + step), strict=True)):
            parameter.grad = None if (step, index) in skip else gradient.clone()
        for entry in optimizer.param_groups:
            entry["lr"] = 0.1 / (1 + step)
        optimizer.step()


def assert_close(ours, reference) -> None:
    """Assert that two lists of parameters agree up to rounding."""
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


# The rules equal those of torch


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgd_equals_torch(momentum, nesterov, decay):
    """With momentum, Nesterov momentum or none, and weight decay, weights follow torch.optim.SGD."""
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, momentum=momentum, nesterov=nesterov, weight_decay=decay)]), ours)
    options = {"momentum": momentum, "nesterov": nesterov and momentum > 0, "weight_decay": decay}
    train(torch.optim.SGD(reference, lr=0.1, **options), reference)
    assert_close(ours, reference)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam_equals_torch(betas, decay):
    """Parameters follow torch.optim.Adam with its default epsilon."""
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, "adam", betas=betas, weight_decay=decay)]), ours)
    train(torch.optim.Adam(reference, lr=0.1, betas=betas, weight_decay=decay), reference)
    assert_close(ours, reference)


@pytest.mark.parametrize(("rule", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_a_parameter_without_a_gradient_is_skipped(rule, kind):
    """It does not move in that step, and its state starts with its first gradient."""
    skip = {(0, 1), (1, 1), (3, 0), (3, 1), (3, 2), (4, 2)}
    options = {"momentum": 0.9} if rule == "sgd" else {}
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, rule, **options)]), ours, skip=skip)
    train(kind(reference, lr=0.1, **options), reference, skip=skip)
    assert_close(ours, reference)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_double_precision_takes_the_same_steps(rule):
    """Dtypes other than float32 do not use the fused kernel, and follow the same rule."""
    double = [nn.Parameter(p.detach().double()) for p in parameters()]
    single = parameters()
    for params in (double, single):
        optimizer = GroupedOptimizer([group(params, rule, momentum=0.9, weight_decay=0.01)])
        for step in range(STEPS):
            for parameter, gradient in zip(params, tensors(100 + step), strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    for one, other in zip(double, single, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-5, atol=1e-6)


def test_groups_follow_their_own_rules():
    """SGD weights and Adam gates in one optimizer move as in two optimizers."""
    ours, reference = parameters(), parameters()
    groups = [group(ours[:2], momentum=0.9), group(ours[2:], "adam", name=GATES)]
    train(GroupedOptimizer(groups), ours)
    sgd, adam = torch.optim.SGD(reference[:2], lr=0.1, momentum=0.9), torch.optim.Adam(reference[2:], lr=0.1)

    class Both:
        param_groups = sgd.param_groups + adam.param_groups

        def step(self):
            sgd.step()
            adam.step()

    train(Both(), reference)
    assert_close(ours, reference)


def test_a_step_is_repeatable_to_the_last_bit():
    """Two optimizers with the same gradients give the same bits."""
    one, other = parameters(), parameters()
    for params in (one, other):
        train(GroupedOptimizer([group(params, momentum=0.9, weight_decay=0.01)]), params)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Freezing


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_frozen_group_does_not_move(rule):
    """After `freeze_gates`, gates keep every bit in spite of gradients, momentum and decay; weights still train."""
    params = parameters()
    gates = group(params[2:], rule, name=GATES, momentum=0.9, weight_decay=0.1)
    optimizer = GroupedOptimizer([group(params[:2]), gates])
    train(optimizer, params)
    before = [p.detach().clone() for p in params]
    freeze_gates(optimizer.param_groups)
    train(optimizer, params)
    assert torch.equal(params[2], before[2])
    assert not any(torch.equal(p, b) for p, b in zip(params[:2], before, strict=False))


def test_freezing_survives_the_schedule():
    """The schedule sets the rates of other groups; that of a frozen group stays 0."""
    groups = [group([], peak_lr=0.4), group([], name=GATES)]
    freeze_gates(groups)
    set_learning_rates(groups, 0.5)
    assert [g["lr"] for g in groups] == [0.2, 0.0]
    assert (groups[1]["weight_decay"], groups[1]["momentum"], groups[1]["frozen"]) == (0.0, 0.0, True)


# The schedule


@given(st.integers(1, 500), st.data())
@settings(deadline=None, max_examples=50)
def test_the_schedule_rises_to_its_peak_and_falls_to_zero(total, data):
    """Linear during the warm-up, 1 at its end, then strictly decreasing, and 0 only at the step after the last."""
    warmup = data.draw(st.integers(0, total - 1))
    shares = [schedule(step, total, warmup) for step in range(total + 1)]
    assert shares[:warmup] == pytest.approx([(i + 1) / (warmup + 1) for i in range(warmup)])
    assert shares[warmup] == 1.0
    assert all(a > b for a, b in itertools.pairwise(shares[warmup:]))
    assert shares[total] == pytest.approx(0, abs=1e-15)


def test_the_schedule_without_warm_up_equals_torch():
    """Step for step it is CosineAnnealingLR over the whole budget."""
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert schedule(step, 40, 0) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()


def test_the_cosine_spans_the_steps_after_the_warm_up():
    """Halfway between the end of the warm-up and the end of the budget the fraction is one half."""
    assert schedule(60, 100, 20) == pytest.approx(0.5)
    assert schedule(20 + 20, 100, 20) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_budget_that_is_all_warm_up_has_no_cosine():
    """The fractions only rise, and nothing divides by zero."""
    assert [schedule(step, 3, 3) for step in range(3)] == [0.25, 0.5, 0.75]


# Which parameter is in which group


@pytest.mark.parametrize(
    "network", [{"model_name": "resnet20_cifar"}, {"model_name": "deit_tiny_patch16_224", "depth": 2}]
)
@pytest.mark.parametrize("pruner", [WithMasks(sparsity=0.5), WithLearnedGates(sparsity=0.5)])
def test_each_trainable_parameter_is_in_exactly_one_group(network, pruner):
    """Gate parameters are in a group of their own, layer weights in the one with decay, all others in the third."""
    model = timm.create_model(**network, num_classes=10)
    weights = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    frozen = next(p for n, p in model.named_parameters() if n.endswith("bias")).requires_grad_(False)
    layers = attach(pruner, models.prunable_layers(model), DrawKey(0), hits_target=True)
    gates = gate_parameters(layers)
    groups = parameter_groups(model, gates, RECIPE, GateOptimizer(rule="adam", lr=6e-3))
    found = {g["name"]: {id(p) for p in g["params"]} for g in groups}
    everything = [id(p) for g in groups for p in g["params"]]
    assert len(everything) == len(set(everything))
    assert set(everything) == {id(p) for p in model.parameters() if p.requires_grad}
    assert id(frozen) not in everything
    assert {id(layer.dense) for layer in layers} <= found["weights"]
    assert found["weights"] == weights
    assert found.get(GATES, set()) == {id(p) for p in gates}


def test_groups_have_the_rules_of_recipe_and_method():
    """Weights and the rest use SGD with the recipe's values, gates the rule that the method declares."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    layers = attach(WithLearnedGates(sparsity=0.5), models.prunable_layers(model), DrawKey(0), hits_target=True)
    rule = GateOptimizer(rule="adam", lr=6e-3, weight_decay=0.2, betas=(0.5, 0.9))
    recipe = dataclasses.replace(RECIPE, lr=0.3, momentum=0.8, nesterov=True)
    weights, rest, gates = parameter_groups(model, gate_parameters(layers), recipe, rule)
    common = {"rule": "sgd", "lr": 0.3, "peak_lr": 0.3, "momentum": 0.8, "nesterov": True}
    assert {k: v for k, v in weights.items() if k != "params"} == {"name": "weights", "weight_decay": 5e-4, **common}
    assert {k: v for k, v in rest.items() if k != "params"} == {"name": "rest", "weight_decay": 1e-5, **common}
    assert (gates["rule"], gates["lr"], gates["weight_decay"], gates["betas"]) == ("adam", 6e-3, 0.2, (0.5, 0.9))


def test_a_group_without_parameters_is_left_out():
    """A network with nothing but weights has one group."""
    groups = parameter_groups(nn.Linear(2, 2, bias=False), [], RECIPE, None)
    assert [g["name"] for g in groups] == ["weights"]


def test_trainable_gates_need_a_rule():
    """Trainable gate parameters without a declared rule raise an error that says what to return."""
    with pytest.raises(ValueError, match=r"gate_optimizer\(\) must return a rule"):
        parameter_groups(nn.Linear(2, 2), parameters(), RECIPE, None)
