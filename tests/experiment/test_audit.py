"""The audit of the folded model: counts, budget, and frozen weights that must not change."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from pruneboard.api import Gate, Layer, Mask
from pruneboard.errors import AuditError, DivergedError, RunError
from pruneboard.experiment.audit import LayerCount, check_budget, check_unchanged, count_layers, sparsity_block
from pruneboard.training import loop


def layers_of(*keeps):
    """Return layers of masks with these bits, over weights that are nowhere 0, and the folded state."""
    weights = [torch.nn.Parameter(torch.arange(1.0, len(keep) + 1)) for keep in keeps]
    layers: list[Layer[Gate]] = []
    for index, (weight, keep) in enumerate(zip(weights, keeps, strict=True)):
        gate = Mask(weight)
        gate.set(torch.tensor(keep))
        layers.append(Layer(index, f"layer{index}", weight, gate, None))
    return layers, {f"{layer.name}.weight": layer.gate.folded(layer.dense) for layer in layers}


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_counts_equal_a_count_position_by_position(keeps):
    """Size, kept positions and non-zeros are counted per layer, and the record's block has their sums."""
    layers, state = layers_of(*keeps)
    counts = count_layers(layers, state)
    assert counts == [LayerCount(f"layer{i}", len(keep), sum(keep), sum(keep)) for i, keep in enumerate(keeps)]
    n, kept = sum(map(len, keeps)), sum(map(sum, keeps))
    block = sparsity_block(counts, 0.5, kept, parameters=2 * n)
    assert (block["prunable"], block["kept"], block["nonzero"], block["kept_zero"]) == (n, kept, kept, 0)
    assert block["measured"] == 2 * block["whole_model"] == (n - kept) / n
    assert block["collapsed"] == [f"layer{i}" for i, keep in enumerate(keeps) if not any(keep)]


def test_a_weight_outside_the_mask_is_an_error():
    """The message names the layer and how many of its pruned weights are not zero."""
    layers, state = layers_of([True, False, False], [True])
    state["layer0.weight"][1:] = 7
    with pytest.raises(AuditError, match="layer layer0: 2 weights outside the mask are not zero"):
        count_layers(layers, state)


@pytest.mark.parametrize("kept", [torch.tensor([1, 1, -1]), torch.tensor([True])])
def test_positions_are_kept_or_not(kept):
    """A gate whose `kept` returns numbers, which could sum to any budget, or another shape is refused."""
    layers, state = layers_of([True, True, True])
    layers[0].gate.kept = lambda weight: kept
    with pytest.raises(AuditError, match=r"layer layer0: kept\(\) must return a bool tensor of the weight's shape"):
        count_layers(layers, state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named_as_such(value):
    """NaN and infinite weights, inside or outside the mask, are not called weights outside the mask that are not 0."""
    for place in range(3):
        layers, state = layers_of([True, False, False], [True])
        with torch.no_grad():
            layers[0].dense[place] = value  # infinity times 0 is NaN
        state["layer0.weight"] = layers[0].dense.detach() * torch.tensor([1.0, 0.0, 0.0])
        with pytest.raises(DivergedError, match=r"^weights are not finite: layer0.weight \(1 of 3 values\): lower the"):
            count_layers(layers, state)


def test_the_budget_is_exact():
    """One position more or less than the budget is an error; if the sparsity emerges, any count is accepted."""
    counts = [LayerCount("a", 10, 4, 4), LayerCount("b", 10, 3, 3)]
    check_budget(counts, 7)
    check_budget(counts, None)
    for keep in (6, 8):
        with pytest.raises(AuditError, match=f"7 positions are kept where the budget is {keep}"):
            check_budget(counts, keep)


@pytest.mark.parametrize("keep", [20_000, None])
def test_at_most_one_kept_position_in_ten_thousand_may_be_zero(keep):
    """A mask that keeps more zeros than that counts more weights as kept than are nonzero."""
    check_budget([LayerCount("a", 40_000, 20_000, 19_998)], keep)
    with pytest.raises(AuditError, match=r"3 of 20000 kept positions hold 0\.0"):
        check_budget([LayerCount("a", 40_000, 20_000, 19_997)], keep)


def test_a_changed_sign_of_zero_is_a_changed_weight():
    """-0.0 differs from 0.0, and NaN from everything; pruned positions are ignored."""
    weight = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    gate = Mask(weight)
    gate.set(torch.tensor([1.0, 1.0, 0.0]))
    layers: list[Layer[Gate]] = [Layer(0, "fc", weight, gate, 2)]
    start = {"fc.weight": weight.detach().clone()}
    check_unchanged(layers, start, {"fc.weight": torch.tensor([0.0, 1.0, 0.0])})
    for changed in ([-0.0, 1.0, 0.0], [0.0, 1.0 + 1e-7, 0.0], [0.0, float("nan"), 0.0]):
        with pytest.raises(AuditError, match="1 values are not the initial ones"):
            check_unchanged(layers, start, {"fc.weight": torch.tensor(changed)})


CHEATING = """
    from dataclasses import dataclass
    from pruneboard.api import Mask, Pruner

    class Doubled(Mask):
        def forward(self, weight):
            return 2 * weight * self.keep

    @dataclass(frozen=True, kw_only=True)
    class Thing(Pruner[Doubled]):
        tracks = frozenset({"supermask"})

        def gate(self, weight):
            return Doubled(weight)
"""


def test_a_method_that_moves_a_frozen_weight_fails_the_run(tmp_path, site):
    """A gate that scales the weights it keeps is found by the comparison of bits, and its run is invalid."""
    site.add("cheats", CHEATING)
    with pytest.raises(RunError, match=r"conv1.*values are not the initial ones"):
        runs.run(tmp_path / "results", "thing", 0.0, track="supermask")
    record = json.loads((runs.folder(tmp_path / "results") / "run.json").read_text())
    assert record["status"] == "invalid"


def test_a_run_whose_last_step_breaks_the_weights_says_that_they_are_not_finite(tmp_path, monkeypatch):
    """Its status is `diverged`, and the message advises a lower learning rate instead of blaming the mask."""
    original = loop._save_or_stop

    def break_weights(run, *arguments):
        if run.state.step == run.budget.total:
            with torch.no_grad():
                run.layers[0].dense.fill_(math.nan)
        original(run, *arguments)

    monkeypatch.setattr(loop, "_save_or_stop", break_weights)
    with pytest.raises(
        DivergedError, match=r"^weights are not finite: .*weight \(.* values\).*: lower the learning rate"
    ):
        runs.run(tmp_path)
    assert json.loads((runs.folder(tmp_path) / "run.json").read_text())["status"] == "diverged"
