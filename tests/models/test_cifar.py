"""The CIFAR networks of the ProbMask paper."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from model_cases import plan
from pruneboard.errors import UsageError
from pruneboard.models import build_model, prunable_layers


def prunable_count(model) -> int:
    """Return the number of prunable weights."""
    return sum(layer.weight.numel() for _, layer in prunable_layers(model))


def norm_count(model) -> int:
    """Return the number of batch-normalization scales and shifts."""
    return sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())


@pytest.mark.parametrize(
    ("name", "ten", "hundred", "norm"),
    [
        ("resnet8_cifar", 77_360, 83_120, 672),
        ("resnet20_cifar", 270_896, 276_656, 1_568),
        ("resnet32_cifar", 1_855_584, 1_867_104, 4_928),
        ("vgg19_cifar", 20_024_000, 20_070_080, 11_008),
    ],
)
def test_paper_networks_have_the_published_sizes(name, ten, hundred, norm):
    """They have exactly the number of weights that the ProbMask paper counts, and otherwise only normalization."""
    for classes, expected in ((10, ten), (100, hundred)):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=classes)
        assert prunable_count(model) == expected
        assert norm_count(model) == norm
        assert sum(p.numel() for p in model.parameters()) == expected + norm


@pytest.mark.parametrize("name", ["resnet8_cifar", "resnet20_cifar", "resnet32_cifar", "vgg19_cifar"])
def test_paper_networks_start_kaiming_normal(name):
    """Weights have variance 2 / fan-in, and normalization starts as the identity."""
    model = build_model(plan(name), seed=0)
    for layer_name, layer in prunable_layers(model):
        fan_in = layer.weight[0].numel()
        spread = layer.weight.var().item() * fan_in / 2
        assert spread == pytest.approx(1, abs=6 * (2 / layer.weight.numel()) ** 0.5), layer_name
        assert layer.bias is None
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all() and (module.bias == 0).all())


def test_paper_networks_have_the_interface_of_timm():
    """Features, head, classifier and input channels work as in timm's own networks."""
    model = timm.create_model("resnet20_cifar", num_classes=7, in_chans=1, drop_rate=0.1).eval()
    images = torch.randn(2, 1, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, model.num_features, 8, 8)
    assert model.forward_head(features, pre_logits=True).shape == (2, 64)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.get_classifier().out_features == model.num_classes == 7
    model.reset_classifier(3, global_pool="max")
    assert model(images).shape == (2, 3)
    model.reset_classifier(0)
    assert model(images).shape == (2, 64)
    assert model.default_cfg["input_size"] == (3, 32, 32)


def test_paper_networks_have_no_pretrained_weights():
    """Requesting pretrained weights from timm is an error that says so."""
    with pytest.raises(UsageError, match="no pretrained weights exist for vgg19_cifar"):
        timm.create_model("vgg19_cifar", pretrained=True)
