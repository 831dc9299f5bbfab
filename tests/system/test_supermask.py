"""The supermask track, end to end: frozen weights, only masks learned, and the harness proves it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import runs
from pruneboard import RunSpec
from pruneboard.api import Gate, Layer, Mask
from pruneboard.errors import AuditError, PluginError, RunError, UsageError
from pruneboard.experiment.ablation import shuffle_masks
from pruneboard.experiment.audit import check_unchanged
from pruneboard.models import build_frozen, plan_model
from pruneboard.models.cost import LayerCost, supermask_bits

SUPERMASK = {"track": "supermask", "sparsity": 0.5}


def initial(record, seed_name="init"):
    """The frozen network that a tiny run of this record started from."""
    plan = plan_model("test_resnet", num_classes=10, image_size=32, original_size=8, enlarged=True, stem=None)
    init = record["model"]["init"]
    model = build_frozen(plan, init=init, keep_ratio=1 - record["sparsity"]["target"], seed=record["seeds"][seed_name])
    return dict(model.named_parameters())


@pytest.mark.parametrize("method", ["edge-popup", "probmask", "random"])
def test_surviving_weights_are_the_initial_ones_bit_for_bit(tmp_path, method):
    """The folded file holds the drawn weight where the mask keeps it, 0 elsewhere, and every other key untouched."""
    record = runs.run(tmp_path, method, **SUPERMASK)
    state = load_file(runs.folder(tmp_path) / "model.safetensors")
    prunable = {f"{layer['name']}.weight" for layer in record["sparsity"]["layers"]}
    for name, start in initial(record).items():
        kept = state[name] != 0 if name in prunable else torch.ones_like(start, dtype=torch.bool)
        assert torch.equal(state[name][kept], start[kept]), name
    n = record["sparsity"]["prunable"]
    assert record["sparsity"]["nonzero"] == n - round(0.5 * n)
    assert record["track"] == "supermask"
    assert record["model"]["init"] == "signed-constant"


def test_a_random_mask_learns_nothing_and_costs_nothing(tmp_path):
    """With frozen weights and a drawn mask no step is taken, and the record says so."""
    record = runs.run(tmp_path, "random", **SUPERMASK)
    assert record["cost"]["train_macs"] == 0
    assert not (runs.folder(tmp_path) / "metrics.jsonl").exists()


@pytest.mark.parametrize("init", ["kaiming-normal", "kaiming-normal-scaled", "signed-constant-scaled"])
def test_the_board_chooses_the_initial_weights(tmp_path, init):
    """Every rule runs, is recorded, and makes a board of its own."""
    default = runs.run(tmp_path / "default", "random", **SUPERMASK)
    record = runs.run(tmp_path / init, "random", init=init, **SUPERMASK)
    assert record["model"]["init"] == record["board"]["init"] == init
    assert record["board"]["fingerprint"] != default["board"]["fingerprint"]
    assert record["model"]["initial_sha256"] != default["model"]["initial_sha256"]


def test_a_shuffled_mask_keeps_every_layers_count_and_the_weights(tmp_path):
    """The ablation is a row of its own: the same kept counts per layer as the mask that was learned, elsewhere."""
    found = runs.run(tmp_path / "a", "probmask", **SUPERMASK)
    record = runs.run(tmp_path / "b", "probmask", ablation="shuffled-mask", **SUPERMASK)
    counts = [[layer["kept"] for layer in made["sparsity"]["layers"]] for made in (found, record)]
    assert counts[0] == counts[1]
    assert record["weights_sha256"] != found["weights_sha256"]
    assert record["model"]["initial_sha256"] == found["model"]["initial_sha256"]
    assert (record["method"]["ablation"], found["method"]["ablation"]) == ("shuffled-mask", None)
    assert record["hash"] != found["hash"]


def test_redrawn_weights_keep_the_mask_and_none_of_the_signs(tmp_path):
    """The kept positions are those of the learned mask; the weights there agree in sign about half the time."""
    runs.run(tmp_path / "a", "edge-popup", **SUPERMASK)
    runs.run(tmp_path / "b", "edge-popup", ablation="redrawn-weights", **SUPERMASK)
    one, two = (load_file(runs.folder(tmp_path / name) / "model.safetensors") for name in "ab")
    layer = "layer4.0.conv2.weight"
    assert torch.equal(one[layer] != 0, two[layer] != 0)
    kept = one[layer] != 0
    agree = float((one[layer][kept].sign() == two[layer][kept].sign()).float().mean())
    assert abs(agree - 0.5) < 5 * 0.5 / math.sqrt(int(kept.sum()))
    assert torch.equal(one["bn1.weight"], two["bn1.weight"])


def test_shuffling_is_a_permutation_drawn_from_the_seed():
    """A shuffled mask has the same count, another arrangement, and the same one for the same seed."""
    mask = torch.arange(1000).reshape(10, 10, 10) < 300
    (one,), (again,), (other,) = (shuffle_masks([mask], seed) for seed in (1, 1, 2))
    assert int(one.sum()) == 300
    assert torch.equal(one, again)
    assert not torch.equal(one, mask)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "probmask", "init": "signed-constant"}, "belongs to the supermask track: add --track supermask"),
        ({"method": "probmask", "track": "supermask", "init": "pretrained"}, "init on the supermask track is one of"),
        ({"method": "probmask", "ablation": "shuffled-mask"}, "belongs to the supermask track; this run is on track"),
        ({"method": "magnitude", "track": "supermask"}, "it runs on prune"),
        ({"method": "edge-popup", "track": "prune"}, "it runs on supermask"),
    ],
)
def test_what_belongs_to_the_other_track_is_refused(tmp_path, changes, message):
    """Initial weights, ablations and methods of one track are not taken on the other, and nothing is written."""
    with pytest.raises(UsageError, match=message):
        runs.run(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_an_unknown_ablation_is_refused_by_name():
    """The message lists what there is."""
    with pytest.raises(UsageError, match="ablation is one of shuffled-mask, redrawn-weights; found 'other'"):
        RunSpec(method="probmask", model="test_resnet", sparsity=0.5, track="supermask", ablation="other")


def test_a_method_with_one_track_runs_there_unasked(tmp_path):
    """edge-popup needs no --track."""
    assert runs.run(tmp_path, "edge-popup", 0.5)["track"] == "supermask"


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

EARLY = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        tracks = frozenset({"supermask"})

        def traits(self, track):
            return Traits(harden_at=0.5)
"""

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


def test_a_method_that_moves_a_frozen_weight_fails_the_run(tmp_path, site):
    """A gate that scales what it keeps is found out by the comparison of bits, and its run is invalid."""
    site.add("cheats", CHEATING)
    with pytest.raises(RunError, match=r"conv1.*values are not the initial ones"):
        runs.run(tmp_path / "results", "thing", 0.0, track="supermask")
    record = json.loads((runs.folder(tmp_path / "results") / "run.json").read_text())
    assert record["status"] == "invalid"


def test_fine_tuning_is_refused_where_nothing_is_trained(tmp_path, site):
    """harden_at other than 1, or 0 for a mask that is never learned, is the plugin's error."""
    site.add("early", EARLY)
    with pytest.raises(PluginError, match=r"declares harden_at=0.5 on the supermask track"):
        runs.run(tmp_path / "results", "thing", 0.5, track="supermask")


@pytest.mark.parametrize("zero", [0, 2])
def test_masks_can_be_searched_without_any_gradient(tmp_path, site, zero):
    """A method that only moves masks takes its steps like any other, at every ZeRO stage."""
    site.add("draws", DRAWING)
    record = runs.run(tmp_path / "results", "thing", 0.5, track="supermask", zero=zero)
    assert record["budget"]["harden_step"] == record["budget"]["steps"] == 8
    rows = (runs.folder(tmp_path / "results") / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2


def test_masks_can_be_searched_by_dense_gradients_over_frozen_weights(tmp_path, site):
    """A method without parameters of its own gets the gradient of every frozen effective weight."""
    site.add("searches", SEARCHING)
    record = runs.run(tmp_path / "results", "thing", 0.5, track="supermask")
    assert record["sparsity"]["measured"] == pytest.approx(0.5, abs=1e-5)
    assert record["cost"]["relative_train_macs"] == 1


def test_a_flipped_zero_is_a_changed_weight():
    """-0.0 is not 0.0 to the audit, nor is NaN anything; pruned positions do not matter to it."""
    weight = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    gate = Mask(weight)
    gate.set(torch.tensor([1.0, 1.0, 0.0]))
    layers: list[Layer[Gate]] = [Layer(0, "fc", weight, gate, 2)]
    start = {"fc.weight": weight.detach().clone()}
    check_unchanged(layers, start, {"fc.weight": torch.tensor([0.0, 1.0, 0.0])})
    for changed in ([-0.0, 1.0, 0.0], [0.0, 1.0 + 1e-7, 0.0], [0.0, float("nan"), 0.0]):
        with pytest.raises(AuditError, match="1 values are not the initial ones"):
            check_unchanged(layers, start, {"fc.weight": torch.tensor(changed)})


def test_storage_is_the_entropy_of_the_mask_and_the_seed():
    """Mask = ceil(log2 C(n, k)) per layer, by exact integers; counts, seed and batch statistics stand beside it."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 50, bias=False), torch.nn.BatchNorm1d(50))
    layers = [LayerCost("0", 2000, 500, 500, 1)]
    bits = supermask_bits(layers, model)
    assert bits["mask"] == math.ceil(math.log2(math.comb(2000, 500)))
    assert bits["counts"] == 11
    assert bits["statistics"] == 32 * 100
    assert bits["extras"] == 0
    assert bits["total"] == sum(value for name, value in bits.items() if name != "total")
    assert supermask_bits([LayerCost("0", 10, 10, 10, 1), LayerCost("1", 10, 0, 0, 1)], model)["mask"] == 0
