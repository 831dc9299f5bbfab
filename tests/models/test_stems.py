"""The stem rule, and small stems."""

from __future__ import annotations

import pytest
import timm
import torch

from model_cases import plan
from pruneboard.errors import UsageError
from pruneboard.models import build_model


@pytest.mark.parametrize(
    ("name", "size", "original", "enlarged", "requested", "stem", "load_as", "extra"),
    [
        ("resnet18", 32, 32, False, None, "small", "resnet18_small_stem", {}),
        ("resnet18.a1_in1k", 32, 32, False, None, "small", "resnet18_small_stem.a1_in1k", {}),
        ("resnet18_small_stem", 32, 8, True, None, "small", "resnet18_small_stem", {}),
        ("resnet18", 64, 0, False, None, "small", "resnet18_small_stem", {}),
        ("resnet18", 64, 32, False, None, "stock", "resnet18", {}),
        ("resnet18", 65, 65, False, None, "stock", "resnet18", {}),
        ("resnet18", 32, 8, True, None, "stock", "resnet18", {}),
        ("resnet18", 32, 8, True, "small", "small", "resnet18_small_stem", {}),
        ("resnet18", 32, 32, False, "stock", "stock", "resnet18", {}),
        ("mobilenetv3_small_050", 32, 32, False, None, "small", "mobilenetv3_small_050_small_stem", {}),
        ("resnet20_cifar", 32, 32, False, None, "stock", "resnet20_cifar", {}),
        ("densenet121", 32, 32, False, None, "stock", "densenet121", {}),
        ("convnext_atto", 32, 32, False, None, "small", "convnext_atto", {"patch_size": 2}),
        ("convnext_atto_ols", 32, 32, False, None, "stock", "convnext_atto_ols", {}),
        (
            "vit_tiny_patch16_224",
            32,
            32,
            False,
            None,
            "small",
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 4},
        ),
        (
            "vit_tiny_patch16_224",
            28,
            28,
            False,
            None,
            "small",
            "vit_tiny_patch16_224",
            {"img_size": 28, "patch_size": 2},
        ),
        ("vit_tiny_patch16_224", 32, 8, True, None, "stock", "vit_tiny_patch16_224", {"img_size": 32}),
        ("vit_tiny_patch16_224", 224, 0, False, None, "stock", "vit_tiny_patch16_224", {}),
        ("mixer_s32_224", 64, 64, False, None, "stock", "mixer_s32_224", {"img_size": 64}),
    ],
)
def test_the_stem_follows_the_rule(name, size, original, enlarged, requested, stem, load_as, extra):
    """The plan has the stem of the rule, and the name and arguments with which timm builds it."""
    made = plan(name, size=size, original=original, enlarged=enlarged, stem=requested)
    assert (made.name, made.load_as, made.stem) == (name, load_as, stem)
    assert made.create_args == {"num_classes": 10, **extra}


@pytest.mark.parametrize(
    ("name", "stem", "message"),
    [
        ("densenet121", "small", "no small stem is defined for densenet121, only for .*resnet.*convnext"),
        ("convnext_atto_ols", "small", "no small stem"),
        ("vgg19_cifar", "small", "small already"),
        ("resnet18_small_stem", "stock", "small stem by name"),
    ],
)
def test_a_stem_that_does_not_exist_is_refused(name, stem, message):
    """Requesting a stem that the network does not have is an error."""
    with pytest.raises(UsageError, match=message):
        plan(name, stem=stem)


def test_the_small_stem_of_a_resnet_keeps_the_resolution():
    """The first convolution is 3x3 with stride 1, max-pooling is gone, and later layers equal the stock network's."""
    small = build_model(plan("resnet18"), seed=0)
    stock = build_model(plan("resnet18", stem="stock"), seed=0)
    conv = small.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert small.maxpool(small.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    ours, theirs = small.state_dict(), stock.state_dict()
    assert [n for n in theirs if not torch.equal(theirs[n], ours[n])] == ["conv1.weight"]


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "resnetaa50", "mobilenetv3_small_050", "efficientnet_b0"])
def test_the_first_block_after_a_small_stem_has_the_full_resolution(name):
    """Deep, anti-aliased and mobile stems also stop reducing the image."""
    shapes = []
    with torch.device("meta"):
        model = timm.create_model(f"{name}_small_stem").eval()
        first = model.blocks if hasattr(model, "blocks") else model.layer1
        first.register_forward_pre_hook(lambda _m, inputs: shapes.append(inputs[0].shape[-2:]))
        model(torch.empty(1, 3, 32, 32))
    assert shapes == [(32, 32)]


def test_a_small_stem_is_a_classifier_only():
    """`features_only` is refused: timm's table of reductions would be wrong for a small stem."""
    with pytest.raises(UsageError, match="features_only"):
        timm.create_model("resnet18_small_stem", features_only=True)
