"""Layer collapse: magnitude at initialization cuts a network through at sparsities where SynFlow's still works."""

from __future__ import annotations

import networks  # noqa: F401 - registers the tiny ones
import pytest
import torch
from model_cases import plan
from runs import run, tiny
from scoring_cases import chosen, nothing

from pruneboard.gates import DrawClock, attach
from pruneboard.models import build_model, gated_layers
from pruneboard.prepare import prepare
from pruneboard.scores import set_masks
from pruneboard.signals import View
from pruneboard_magnitude import Magnitude
from pruneboard_synflow import SynFlow

VGG = "tiny_vgg_bn"
FULL = {"limit_train": None, "overrides": {"epochs": 6, "lr": 0.05, "warmup_epochs": 1.0}}


def pruned(pruner, name=VGG):
    """The network at initialization under the masks of one method, and its layers."""
    net = build_model(plan(name), seed=0)
    layers = attach(pruner, gated_layers(net), DrawClock(0), hits_target=True)
    if isinstance(pruner, SynFlow):
        view = View(net, layers, 32, 0.0)
        set_masks(layers, chosen(view, pruner.score(view, nothing())))
    else:
        set_masks(layers, pruner.masks(layers))
    return net.eval(), layers


def emptied(layers):
    """The layers that keep nothing."""
    return [layer.name for layer in layers if not layer.gate.keep.any()]


def answers(net):
    """How many different rows of logits eight images get."""
    with torch.no_grad():
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return len(net(images).unique(dim=0))


@pytest.mark.parametrize("sparsity", [0.98, 0.99])
def test_magnitude_at_initialization_cuts_through_and_synflow_does_not(sparsity):
    """Among weights of other scales the head's are the smallest: without them every image gets the same logits."""
    net, layers = pruned(Magnitude(sparsity=sparsity, prune_at=0))
    assert "head.fc" in emptied(layers)
    assert answers(net) == 1
    net, layers = pruned(SynFlow(sparsity=sparsity, rounds=30))
    assert emptied(layers) == []
    assert answers(net) == 8


def test_a_cut_network_guesses(tmp_path):
    """A run of magnitude at initialization ends with the accuracy of one class for all, and names what collapsed."""
    made = run(tmp_path, "magnitude", 0.98, model=VGG, options={"prune_at": 0})
    assert made["sparsity"]["collapsed"] == ["head.fc"]
    assert made["budget"]["harden_step"] == 0
    assert made["method"]["traits"]["control"] is None
    assert made["metrics"]["test"]["worst_class_top1"] == 0
    labels = prepare(tiny(tmp_path, model=VGG))[1].test.labels
    shares = labels.bincount() / len(labels)
    assert any(made["metrics"]["test"]["top1"] == pytest.approx(float(share), abs=1e-6) for share in shares)


@pytest.mark.slow
def test_synflow_trains_where_magnitude_at_initialization_guesses(tmp_path):
    """After six epochs of digits at .98: one class in ten against more than six images of ten right."""
    cut = run(tmp_path, "magnitude", 0.98, model=VGG, options={"prune_at": 0}, **FULL)["metrics"]["test"]
    whole = run(tmp_path, "synflow", 0.98, model=VGG, options={"rounds": 100}, **FULL)["metrics"]["test"]
    assert cut["top1"] < 0.12
    assert whole["top1"] > 0.6
