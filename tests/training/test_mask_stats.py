"""Mask statistics: the same numbers for every method, checked against a count by hand."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from pruneboard.api import Layer, Mask
from pruneboard.training.mask_stats import MAX_DIAGNOSTICS, MaskTracker, numbers


def layers_of(*shapes):
    """Return layers with masks, whose weights are nowhere 0."""
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    return [Layer(i, f"layer{i}", weight, Mask(weight), None) for i, weight in enumerate(weights)]


@given(masks=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_flips_are_the_positions_that_changed_since_the_last_update(masks):
    """removed, restored and flips equal a count position by position, starting with masks that keep everything."""
    layers, watch = layers_of((2, 3), (6,)), MaskTracker()
    before = [True] * 12
    for mask in masks:
        layers[0].gate.set(torch.tensor(mask[:6]).reshape(2, 3))
        layers[1].gate.set(torch.tensor(mask[6:]))
        found = watch.update(layers)
        removed = sum(old and not new for old, new in zip(before, mask, strict=True))
        restored = sum(new and not old for old, new in zip(before, mask, strict=True))
        assert found["mask"] == {
            "kept": sum(mask),
            "removed": removed,
            "restored": restored,
            "flips": removed + restored,
            "collapsed": (not any(mask[:6])) + (not any(mask[6:])),
        }
        assert found["sparsity"] == pytest.approx(1 - sum(mask) / 12)
        assert found["layers"] == {"layer0": mask[:6].count(False) / 6, "layer1": mask[6:].count(False) / 6}
        before = mask


def test_a_kept_zero_counts_as_zero_and_as_kept():
    """Sparsity counts zeros of the folded weights, the mask statistics count positions."""
    (layer,) = layers = layers_of((4,))
    layer.dense.data[0] = 0
    found = MaskTracker().update(layers)
    assert (found["sparsity"], found["mask"]["kept"], found["mask"]["flips"]) == (0.25, 4, 0)


METHODS = [("dense", None, "prune"), ("random", 0.9, "prune"), ("magnitude", 0.9, "prune"), ("gmp", 0.9, "prune")]
METHODS += [("str", 0.9, "prune"), ("probmask", 0.9, "prune"), ("probmask", 0.5, "supermask")]
METHODS += [("edge-popup", 0.5, "supermask"), ("snip", 0.9, "prune"), ("synflow", 0.9, "prune")]


@pytest.mark.parametrize(("method", "sparsity", "track"), METHODS)
def test_every_method_has_the_same_fields_in_metrics(tmp_path, method, sparsity, track):
    """Every line of metrics.jsonl has sparsity, sparsity per layer, mask statistics, and the method's diagnostics."""
    record = runs.run(tmp_path, method, sparsity, track=track, overrides={"epochs": 1})
    lines = [json.loads(line) for line in (runs.folder(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    names = [layer["name"] for layer in record["sparsity"]["layers"]]
    sizes = [layer["n"] for layer in record["sparsity"]["layers"]]
    for line in lines:
        assert sorted(line["layers"]) == sorted(names)
        assert sum(line["layers"][n] * s for n, s in zip(names, sizes, strict=True)) == pytest.approx(
            line["sparsity"] * sum(sizes)
        )
        assert set(line["mask"]) == {"kept", "removed", "restored", "flips", "collapsed"}
        assert all(isinstance(value, float) for value in line["diagnostics"].values())
    assert lines[-1]["epoch"] == 1
    wanted = {"str": "threshold", "probmask": "mean_probability", "gmp": "scheduled_sparsity"}
    if method in wanted:
        assert wanted[method] in lines[-1]["diagnostics"]


def test_diagnostics_become_python_numbers():
    """Python numbers stay as they are; 0-dimensional tensors become floats."""
    found = numbers({"rewired": 3, "temperature": 0.5, "threshold": torch.tensor(0.25)})
    assert found == {"rewired": 3, "temperature": 0.5, "threshold": 0.25}
    assert [type(value) for value in found.values()] == [int, float, float]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"note": "x" * 10**6}, "it must return numbers by name; found 'note'"),
        ({3: 1.0}, "it must return numbers by name; found 3: 1.0"),
        ({"x" * 10**6: 1.0}, "a name must have at most 100 characters"),
        ({str(index): 0.0 for index in range(MAX_DIAGNOSTICS + 1)}, "101 values; at most 100 are shown"),
    ],
)
def test_other_diagnostics_are_refused_in_a_short_message(returned, message):
    """Text, other names, long names and too many values are refused, and none is printed in full."""
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        numbers(returned)
    assert len(str(caught.value)) < 300
