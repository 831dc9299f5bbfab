"""Building a training: gates on every prunable weight, and settings that do not depend on the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruneboard import models
from pruneboard.experiment.prepare import prepare
from runs import tiny
from training_cases import built


@pytest.fixture
def build(tmp_path):
    """Build trainings, and close their engines after the test."""
    made = []

    def make(*arguments, **changes):
        made.append(built(tmp_path, *arguments, **changes))
        return made[-1]

    yield make
    for run in made:
        run.engine.close()


def test_the_layers_are_the_prunable_layers_of_the_initial_network(build, tmp_path):
    """Every Conv2d and Linear weight is a layer with the weight of the plain network, whose hash is remembered."""
    run = build()
    job, _ = prepare(tiny(tmp_path))
    plain = models.build_model(job.plan, init=job.init, seed=job.seeds["init"])
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [layer.name for layer in run.layers] == names
    assert all(torch.equal(layer.dense, plain.get_submodule(layer.name).weight) for layer in run.layers)
    assert run.initial.sha256 == models.state_sha256(plain.state_dict())
    assert run.initial.frozen is None


def test_methods_differ_only_in_their_gates(build):
    """Weights are trained by the same rule, in the same order of data and with the same budget, for every method."""
    runs = [build(method) for method in ("magnitude", "gmp", "probmask")]
    names = [{name for name, _ in run.engine.model.named_parameters() if ".weight.0." not in name} for run in runs]
    rules = [
        [{k: v for k, v in group.items() if k != "params"} for group in run.engine.groups if group["name"] != "gates"]
        for run in runs
    ]
    for run, own_names, own_rules in zip(runs, names, rules, strict=True):
        assert own_names == names[0]
        assert own_rules == rules[0]
        assert (run.plan, run.recipe, run.budget.total) == (runs[0].plan, runs[0].recipe, runs[0].budget.total)
        assert run.initial.sha256 == runs[0].initial.sha256


def test_on_the_supermask_track_only_gates_are_trained(build):
    """No parameter of the network is in an optimizer group, and copies of all of them are kept for the audit."""
    run = build("probmask", 0.5, track="supermask")
    assert [group["name"] for group in run.engine.groups] == ["gates"]
    trained = {id(p) for group in run.engine.groups for p in group["params"]}
    assert trained == {id(p) for layer in run.layers for p in layer.gate.parameters()}
    plain = {name for name, _ in run.engine.model.named_parameters() if ".weight.0." not in name}
    assert {name.replace("parametrizations.weight.original", "weight") for name in plain} == set(run.initial.frozen)
    for layer in run.layers:
        assert torch.equal(run.initial.frozen[f"{layer.name}.weight"], layer.dense)
