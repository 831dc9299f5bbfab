"""Prunable layers, weights outside the scope, weight decay and special statistics."""

from __future__ import annotations

import pytest
import timm
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn.utils import parametrize

import networks
from pruneboard import models
from pruneboard.errors import UsageError
from pruneboard.models import decays, gated_layers, prunable_layers


def test_resnet18_has_21_prunable_layers():
    """They are seventeen convolutions, three shortcuts and the classifier, in the network's order."""
    layers = prunable_layers(timm.create_model("resnet18"))
    assert len(layers) == 21
    assert [layers[0][0], layers[-1][0]] == ["conv1", "fc"]
    assert all(isinstance(layer, (nn.Conv2d, nn.Linear)) for _, layer in layers)


def test_a_tied_weight_counts_once():
    """A weight shared by two layers is prunable once, under its first name."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert [name for name, _ in prunable_layers(model)] == ["0"]
    assert [name for name, _ in gated_layers(model)] == ["0", "2"]


@pytest.mark.parametrize(
    ("model", "place"), [(networks.TiedToEmbedding, "classes.weight"), (networks.TiedToAttribute, "prototypes")]
)
def test_a_weight_that_other_modules_use_is_refused(model, place):
    """A weight shared with an embedding or an attribute cannot be gated; the message names both users."""
    with pytest.raises(UsageError, match=rf"the weight of its layer head is also {place} .*choose another model"):
        prunable_layers(model())


def test_a_model_without_layers_is_refused():
    """A network of normalization layers alone has nothing to prune."""
    with pytest.raises(UsageError, match="nothing to prune"):
        prunable_layers(nn.Sequential(nn.BatchNorm2d(3)))


def test_batch_statistics_are_those_of_batch_normalization():
    """A ResNet uses statistics of the batch, a vision transformer does not."""
    assert models.uses_batch_statistics(timm.create_model("resnet20_cifar"))
    assert not models.uses_batch_statistics(timm.create_model("test_vit"))


def test_weight_standardization_is_recognized():
    """The weight-standardized convolutions of timm are recognized, plain convolutions are not."""
    assert models.standardized(ScaledStdConv2d(3, 4, 3))
    assert not models.standardized(nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_only_weights_decay(name):
    """Weight decay applies to the prunable weights, and not to biases, norms, layer scales, embeddings or tokens."""
    model = timm.create_model(name)
    decaying = {n for n, p in model.named_parameters() if decays(n, p)}
    assert decaying == {f"{n}.weight" for n, _ in prunable_layers(model)}


def test_weights_of_other_layers_decay_too():
    """Weights outside the scope decay whatever their name is, and are listed by `left_out`; biases do not decay."""
    lstm = nn.LSTM(3, 4)
    assert {n for n, p in lstm.named_parameters() if decays(n, p)} == {"weight_ih_l0", "weight_hh_l0"}
    attention = nn.MultiheadAttention(4, 2)
    decaying = {n for n, p in attention.named_parameters() if decays(n, p)}
    assert decaying == {"in_proj_weight", "out_proj.weight"}
    assert models.left_out(attention) == {"in_proj_weight": 48}


def test_a_gated_weight_decays_under_its_new_name():
    """A parametrized weight still decays."""
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    assert {n: decays(n, p) for n, p in layer.named_parameters()} == {
        "bias": False,
        "parametrizations.weight.original": True,
    }
