"""The two ablations of the supermask track: shuffled masks and redrawn weights."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

import runs
from pruneboard import RunSpec
from pruneboard.errors import UsageError
from pruneboard.experiment.ablation import shuffle_masks

SUPERMASK = {"track": "supermask", "sparsity": 0.5}


def test_a_shuffled_mask_keeps_every_layers_count_and_the_weights(tmp_path):
    """The run with a shuffled mask is a row of its own, with the kept count of every layer and the initial weights."""
    found = runs.run(tmp_path / "a", "probmask", **SUPERMASK)
    record = runs.run(tmp_path / "b", "probmask", ablation="shuffled-mask", **SUPERMASK)
    counts = [[layer["kept"] for layer in made["sparsity"]["layers"]] for made in (found, record)]
    assert counts[0] == counts[1]
    assert record["weights_sha256"] != found["weights_sha256"]
    assert record["model"]["initial_sha256"] == found["model"]["initial_sha256"]
    assert (record["method"]["ablation"], found["method"]["ablation"]) == ("shuffled-mask", None)
    assert record["hash"] != found["hash"]


def test_redrawn_weights_keep_the_mask_and_none_of_the_signs(tmp_path):
    """The kept positions are those of the learned mask; the weights there agree in sign about half of the time."""
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
    """A shuffled mask has the same count at other positions, and the same positions for the same seed."""
    mask = torch.arange(1000).reshape(10, 10, 10) < 300
    (one,), (again,), (other,) = (shuffle_masks([mask], seed) for seed in (1, 1, 2))
    assert int(one.sum()) == 300
    assert torch.equal(one, again)
    assert not torch.equal(one, mask)
    assert not torch.equal(one, other)


def test_an_unknown_ablation_is_refused_by_name():
    """The message lists the ablations that exist."""
    with pytest.raises(UsageError, match="ablation must be one of shuffled-mask, redrawn-weights; found 'other'"):
        RunSpec(method="probmask", model="test_resnet", sparsity=0.5, track="supermask", ablation="other")
