"""One optimizer, one rule per group: against torch's own, frozen groups, the schedule, the split of parameters."""

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
    """Has one trainable parameter of the weight's shape, and one that is not trained."""

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
    """Return parameters, always the same."""
    return [nn.Parameter(tensor) for tensor in tensors(0)]


def group(params, rule="sgd", **changes):
    """Return one group as `parameter_groups` builds it."""
    return {"name": "weights", "params": params, "rule": rule, "lr": 0.1, "peak_lr": 0.1, "weight_decay": 0.0} | changes


def train(optimizer, params, *, skip=()) -> None:
    """Take some steps with normal gradients and a moving learning rate; `skip` gives (step, parameter) without one."""
    for step in range(STEPS):
        for index, (parameter, gradient) in enumerate(zip(params, tensors(100 + step), strict=True)):
            parameter.grad = None if (step, index) in skip else gradient.clone()
        for entry in optimizer.param_groups:
            entry["lr"] = 0.1 / (1 + step)
        optimizer.step()


def check_same(ours, reference, **settings_) -> None:
    """Assert that two parameter lists agree to a rounding."""
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, **settings_)


# The rules are torch's


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgd_is_torchs(momentum, nesterov, decay):
    """Over steps with a moving rate, with momentum, Nesterov's or none, and decay, weights follow torch.optim.SGD."""
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, momentum=momentum, nesterov=nesterov, weight_decay=decay)]), ours)
    options = {"momentum": momentum, "nesterov": nesterov and momentum > 0, "weight_decay": decay}
    train(torch.optim.SGD(reference, lr=0.1, **options), reference)
    check_same(ours, reference)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam_is_torchs(betas, decay):
    """Over steps with a moving rate, parameters follow torch.optim.Adam with the default epsilon."""
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, "adam", betas=betas, weight_decay=decay)]), ours)
    train(torch.optim.Adam(reference, lr=0.1, betas=betas, weight_decay=decay), reference)
    check_same(ours, reference)


@pytest.mark.parametrize(("rule", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_a_gradient_may_come_late_or_be_missing(rule, kind):
    """A parameter without a gradient is left alone in that step, and starts its state when the first one comes."""
    skip = {(0, 1), (1, 1), (3, 0), (3, 1), (3, 2), (4, 2)}
    options = {"momentum": 0.9} if rule == "sgd" else {}
    ours, reference = parameters(), parameters()
    train(GroupedOptimizer([group(ours, rule, **options)]), ours, skip=skip)
    train(kind(reference, lr=0.1, **options), reference, skip=skip)
    check_same(ours, reference)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_double_precision_takes_the_same_steps(rule):
    """Without the fused kernel (other than float32) the rule is the same."""
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


def test_groups_follow_their_own_rules_at_once():
    """SGD weights and Adam gates in one optimizer move as in two."""
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
    check_same(ours, reference)


def test_a_step_is_repeatable_to_the_last_bit():
    """Two optimizers fed the same gradients end in the same bits."""
    one, other = parameters(), parameters()
    for params in (one, other):
        train(GroupedOptimizer([group(params, momentum=0.9, weight_decay=0.01)]), params)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Freezing


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_frozen_group_does_not_move_a_bit(rule):
    """After `freeze_gates`, gates stay in spite of gradients, momentum and decay; weights go on."""
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
    """A frozen group's rate stays 0 when rates are set again; other groups get theirs."""
    groups = [group([], peak_lr=0.4), group([], name=GATES)]
    freeze_gates(groups)
    set_learning_rates(groups, 0.5)
    assert [g["lr"] for g in groups] == [0.2, 0.0]
    assert (groups[1]["weight_decay"], groups[1]["momentum"], groups[1]["frozen"]) == (0.0, 0.0, True)


# The schedule


@given(st.integers(1, 500), st.data())
@settings(deadline=None, max_examples=50)
def test_the_schedule_rises_to_its_peak_and_falls_to_zero(total, data):
    """Linear up to the warm-up's end, 1 there, then down without a turn, above 0 until the step after the last."""
    warmup = data.draw(st.integers(0, total - 1))
    shares = [schedule(step, total, warmup) for step in range(total + 1)]
    assert shares[:warmup] == pytest.approx([(i + 1) / (warmup + 1) for i in range(warmup)])
    assert shares[warmup] == 1.0
    assert all(a > b for a, b in itertools.pairwise(shares[warmup:]))
    assert shares[total] == pytest.approx(0, abs=1e-15)


def test_the_schedule_without_warm_up_is_torchs_cosine():
    """Step for step it is CosineAnnealingLR over the whole budget."""
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert schedule(step, 40, 0) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()


def test_the_cosine_spans_what_the_warm_up_leaves():
    """Halfway between the warm-up and the end the share is one half."""
    assert schedule(60, 100, 20) == pytest.approx(0.5)
    assert schedule(20 + 20, 100, 20) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_budget_that_is_all_warm_up_has_no_cosine():
    """The shares only rise, and nothing divides by zero."""
    assert [schedule(step, 3, 3) for step in range(3)] == [0.25, 0.5, 0.75]


# Which parameter is in which group


@pytest.mark.parametrize(
    "network", [{"model_name": "resnet20_cifar"}, {"model_name": "deit_tiny_patch16_224", "depth": 2}]
)
@pytest.mark.parametrize("pruner", [WithMasks(sparsity=0.5), WithLearnedGates(sparsity=0.5)])
def test_each_trainable_parameter_is_in_exactly_one_group(network, pruner):
    """Gate parameters in their own group, layer weights under decay, and all the rest beside them."""
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


def test_groups_carry_the_recipes_and_the_methods_rules():
    """Weights and the rest are SGD with the recipe's numbers, gates follow the method's declaration."""
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
    """A network of weights alone has one group: the engine takes no empty ones."""
    groups = parameter_groups(nn.Linear(2, 2, bias=False), [], RECIPE, None)
    assert [g["name"] for g in groups] == ["weights"]


def test_gates_that_learn_need_a_rule():
    """Trainable gate parameters without a declared rule are an error that says what to return."""
    with pytest.raises(ValueError, match=r"gate_optimizer\(\) must return a rule"):
        parameter_groups(nn.Linear(2, 2), parameters(), RECIPE, None)
