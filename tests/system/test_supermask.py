"""The supermask track from end to end: weights are frozen, only masks are learned, and the audit verifies it."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

import runs
from pruneboard.models import build_frozen, plan_model
from pruneboard.models.cost import LayerCost, supermask_bits

SUPERMASK = {"track": "supermask", "sparsity": 0.5}


def initial_parameters(record, seed_name="init"):
    """Return the parameters of the frozen network that the run of this record started from."""
    plan = plan_model("test_resnet", num_classes=10, image_size=32, original_size=8, enlarged=True, stem=None)
    init = record["model"]["init"]
    model = build_frozen(plan, init=init, keep_ratio=1 - record["sparsity"]["target"], seed=record["seeds"][seed_name])
    return dict(model.named_parameters())


@pytest.mark.parametrize("method", ["edge-popup", "probmask", "random"])
def test_surviving_weights_are_the_initial_ones_bit_for_bit(tmp_path, method):
    """The folded file has the drawn weight where the mask keeps it, 0 elsewhere, and every other tensor unchanged."""
    record = runs.run(tmp_path, method, **SUPERMASK)
    state = load_file(runs.folder(tmp_path) / "model.safetensors")
    prunable = {f"{layer['name']}.weight" for layer in record["sparsity"]["layers"]}
    for name, start in initial_parameters(record).items():
        kept = state[name] != 0 if name in prunable else torch.ones_like(start, dtype=torch.bool)
        assert torch.equal(state[name][kept], start[kept]), name
    n = record["sparsity"]["prunable"]
    assert record["sparsity"]["nonzero"] == n - round(0.5 * n)
    assert record["track"] == "supermask"
    assert record["model"]["init"] == "signed-constant"


def test_a_random_mask_learns_nothing_and_costs_nothing(tmp_path):
    """With frozen weights and a random mask no step is taken, and the record has no training cost."""
    record = runs.run(tmp_path, "random", **SUPERMASK)
    assert record["cost"]["train_macs"] == 0
    assert not (runs.folder(tmp_path) / "metrics.jsonl").exists()


DRAWING = """
    from dataclasses import dataclass
    import torch
    from pruneboard.api import MaskPruner
    from pruneboard.scores import budget, set_masks, top_k

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        tracks = frozenset({"supermask"})

        def before_step(self, layers, at):
            draws = [torch.rand(layer.dense.shape, generator=at.generator(layer)) for layer in layers]
            set_masks(layers, top_k(draws, budget(layers)))
"""


SEARCHING = """
    from dataclasses import dataclass
    from pruneboard.api import DenseGradientPruner
    from pruneboard.scores import budget, set_masks, top_k

    @dataclass(frozen=True, kw_only=True)
    class Thing(DenseGradientPruner):
        tracks = frozenset({"supermask"})

        def wants_gradients(self, at):
            return True

        def update(self, layers, dense_gradients, at):
            assert all(bool(gradient.any()) for gradient in dense_gradients)
            set_masks(layers, top_k([g.abs() for g in dense_gradients], budget(layers)))
"""


@pytest.mark.parametrize("zero", [0, 2])
def test_masks_can_be_searched_without_any_gradient(tmp_path, site, zero):
    """A method that only moves masks takes its steps like any other, at every ZeRO stage."""
    site.add("draws", DRAWING)
    record = runs.run(tmp_path / "results", "thing", 0.5, track="supermask", zero=zero)
    assert record["budget"]["harden_step"] == record["budget"]["steps"] == 8
    rows = (runs.folder(tmp_path / "results") / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2


def test_masks_can_be_searched_by_dense_gradients_over_frozen_weights(tmp_path, site):
    """A method without parameters gets the gradient with respect to every frozen effective weight."""
    site.add("searches", SEARCHING)
    record = runs.run(tmp_path / "results", "thing", 0.5, track="supermask")
    assert record["sparsity"]["measured"] == pytest.approx(0.5, abs=1e-5)
    assert record["cost"]["relative_train_macs"] == 1


def test_storage_is_the_entropy_of_the_mask_and_the_seed():
    """A mask takes ceil(log2 C(n, k)) bits per layer, exactly; counts, seed and batch statistics are listed as well."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 50, bias=False), torch.nn.BatchNorm1d(50))
    layers = [LayerCost("0", 2000, 500, 500, 1)]
    bits = supermask_bits(layers, model)
    assert bits["mask"] == math.ceil(math.log2(math.comb(2000, 500)))
    assert bits["counts"] == 11
    assert bits["statistics"] == 32 * 100
    assert bits["extras"] == 0
    assert bits["total"] == sum(value for name, value in bits.items() if name != "total")
    assert supermask_bits([LayerCost("0", 10, 10, 10, 1), LayerCost("1", 10, 0, 0, 1)], model)["mask"] == 0
