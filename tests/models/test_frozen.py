"""Frozen networks of the supermask track."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pruneboard.models import build_frozen, draw_weights, extras, plan_model, prunable_layers, redraw_weights
from pruneboard.spec import SUPERMASK_INITS

SHAPES = [(64, 16, 3, 3), (32, 64, 1, 1), (100, 40)]


def plan(name: str):
    """Return the plan of a timm network for `digits`."""
    return plan_model(name, num_classes=10, image_size=32, original_size=8, enlarged=True, stem=None)


def frozen(name: str, init: str = "signed-constant", keep_ratio: float = 0.5, seed: int = 0):
    """Return the frozen network of `plan`."""
    return build_frozen(plan(name), init=init, keep_ratio=keep_ratio, seed=seed)


def test_signed_constants_are_plus_or_minus_the_kaiming_deviation():
    """Every weight is +-sqrt(2 / fan_in), with both signs about equally often."""
    for shape, weight in zip(SHAPES, draw_weights(SHAPES, "signed-constant", 0.1, 7), strict=True):
        std = math.sqrt(2 / math.prod(shape[1:]))
        assert torch.equal(weight.abs(), torch.full(shape, std))
        assert abs(float(weight.sign().mean())) < 5 / math.sqrt(weight.numel())


def test_kaiming_normal_weights_are_normal_with_variance_two_over_fan_in():
    """They pass a Kolmogorov-Smirnov test against N(0, 2 / fan_in), and have the signs of the signed constants."""
    normal = draw_weights(SHAPES, "kaiming-normal", 0.1, 7)
    for shape, weight in zip(SHAPES, normal, strict=True):
        scaled = weight.flatten() / math.sqrt(2 / math.prod(shape[1:]))
        assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-3
    for weight, constant in zip(normal, draw_weights(SHAPES, "signed-constant", 0.1, 7), strict=True):
        assert torch.equal(weight.sign(), constant.sign())


@pytest.mark.parametrize("init", ["signed-constant", "kaiming-normal"])
def test_scaled_weights_are_larger_by_the_root_of_the_kept_fraction(init):
    """At 30 % kept weights, they are 1 / sqrt(0.3) = 1.826 times as large; the official code makes this 1.195."""
    plain, scaled = (draw_weights(SHAPES, name, 0.3, 1) for name in (init, f"{init}-scaled"))
    for weight, larger in zip(plain, scaled, strict=True):
        torch.testing.assert_close(larger, weight / math.sqrt(0.3))


@pytest.mark.parametrize("init", SUPERMASK_INITS)
def test_equal_seeds_give_equal_networks(init):
    """The same seed gives the same bits, another seed other weights; the global generator does not change."""
    before = torch.get_rng_state()
    one, two, other = (dict(frozen("test_resnet", init, seed=s).named_parameters()) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_redrawn_weights_differ_from_those_of_the_network():
    """The ablation's weights have the same distribution, are repeatable, and share about half of their signs."""
    first, again = (redraw_weights(SHAPES, "signed-constant", 0.5, 3) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    for weight, other in zip(first, draw_weights(SHAPES, "signed-constant", 0.5, 3), strict=True):
        assert torch.equal(weight.abs(), other.abs())
        assert abs(float((weight == other).float().mean()) - 0.5) < 2.5 / math.sqrt(weight.numel())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_nfnet", "test_mambaout"])
def test_nothing_is_trainable_and_normalization_is_neutral(name):
    """No parameter requires a gradient; normalization layers have scale 1 and shift 0, and biases are 0."""
    model = frozen(name)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if kind == "bias":
                assert not parameter.any()
            elif kind == "weight" and "norm" in type(module).__name__.lower():
                assert torch.equal(parameter, torch.ones_like(parameter))


def test_residual_branches_have_scale_1():
    """The last normalization of a ResNet's block, which timm initializes with scale 0, would disable a frozen block."""
    model = frozen("resnet18")
    assert all(float(block.bn2.weight.min()) == 1 for block in model.layer1)


def test_gains_of_residual_branches_are_1():
    """An NFNet's last gains, which timm initializes to 0, are frozen at 1, and every layer gets a gradient."""
    model = frozen("test_nfnet").eval()
    gains = [p for name, p in model.named_parameters() if name.endswith("gain")]
    assert gains
    assert all(torch.equal(gain, torch.ones_like(gain)) for gain in gains)
    weights = [layer.weight.requires_grad_() for _, layer in prunable_layers(model)]
    model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(bool(weight.grad.any()) for weight in weights)


def test_extras_are_the_parameters_without_a_rule():
    """A ResNet has none; a vision transformer has class token, position embedding and layer scales."""
    assert extras(frozen("test_resnet")) == 0
    model = frozen("test_vit")
    embeddings = model.cls_token.numel() + model.pos_embed.numel()
    scales = sum(p.numel() for name, p in model.named_parameters() if name.endswith("gamma"))
    assert extras(model) == embeddings + scales
    known = sum(module.weight.numel() for _, module in prunable_layers(model))
    constants = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias") or "norm" in n)
    assert known + constants + extras(model) == sum(p.numel() for p in model.parameters())
