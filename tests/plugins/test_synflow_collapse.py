"""Layer collapse: magnitude at initialization empties a layer at sparsities where SynFlow empties none."""

from __future__ import annotations

import pytest
import torch
from scoring_cases import masks_of, no_data

import networks  # noqa: F401 - registers the tiny ones
from model_cases import plan
from pruneboard.experiment.prepare import prepare
from pruneboard.models import build_model, gated_layers
from pruneboard.scores import set_masks
from pruneboard.training.gates import DrawKey, attach
from pruneboard.training.scoring import ScoringView
from pruneboard_magnitude import Magnitude
from pruneboard_synflow import SynFlow
from runs import run, tiny

VGG = "tiny_vgg_bn"
FULL = {"limit_train": None, "overrides": {"epochs": 6, "lr": 0.05, "warmup_epochs": 1.0}}


def pruned(pruner, name=VGG):
    """The network at initialization under the masks of one method, and its layers."""
    net = build_model(plan(name), seed=0)
    layers = attach(pruner, gated_layers(net), DrawKey(0), hits_target=True)
    if isinstance(pruner, SynFlow):
        view = ScoringView(net, layers, 32, 0.0)
        set_masks(layers, masks_of(view, pruner.score(view, no_data())))
    else:
        set_masks(layers, pruner.masks(layers))
    return net.eval(), layers


def emptied(layers):
    """The names of the layers that keep nothing."""
    return [layer.name for layer in layers if not layer.gate.keep.any()]


def distinct_logits(net):
    """The number of different rows of logits for eight images."""
    with torch.no_grad():
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return len(net(images).unique(dim=0))


@pytest.mark.parametrize("sparsity", [0.98, 0.99])
def test_magnitude_at_initialization_empties_a_layer_and_synflow_does_not(sparsity):
    """Magnitude empties the head, so that all images get the same logits; SynFlow empties no layer."""
    net, layers = pruned(Magnitude(sparsity=sparsity, prune_at=0))
    assert "head.fc" in emptied(layers)
    assert distinct_logits(net) == 1
    net, layers = pruned(SynFlow(sparsity=sparsity, rounds=30))
    assert emptied(layers) == []
    assert distinct_logits(net) == 8


def test_a_collapsed_network_predicts_one_class(tmp_path):
    """A collapsed run has the accuracy of predicting one class, and its record names the collapsed layer."""
    made = run(tmp_path, "magnitude", 0.98, model=VGG, options={"prune_at": 0})
    assert made["sparsity"]["collapsed"] == ["head.fc"]
    assert made["budget"]["harden_step"] == 0
    assert made["method"]["traits"]["control"] is None
    assert made["metrics"]["test"]["worst_class_top1"] == 0
    labels = prepare(tiny(tmp_path, model=VGG))[1].test.labels
    shares = labels.bincount() / len(labels)
    assert any(made["metrics"]["test"]["top1"] == pytest.approx(float(share), abs=1e-6) for share in shares)


@pytest.mark.slow
def test_synflow_learns_where_magnitude_at_initialization_does_not(tmp_path):
    """After six epochs of digits at .98, magnitude is at chance, SynFlow above .6."""
    cut = run(tmp_path, "magnitude", 0.98, model=VGG, options={"prune_at": 0}, **FULL)["metrics"]["test"]
    whole = run(tmp_path, "synflow", 0.98, model=VGG, options={"rounds": 100}, **FULL)["metrics"]["test"]
    assert cut["top1"] < 0.12
    assert whole["top1"] > 0.6
