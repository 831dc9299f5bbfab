"""The networks of the ProbMask paper for 32x32 images, and a smaller one, registered with timm.

| name | widths | prunable weights, 10 classes | 100 classes |
|---|---|---|---|
| `resnet8_cifar` | 16, 32, 64 | 77,360 | 83,120 |
| `resnet20_cifar` | 16, 32, 64 | 270,896 | 276,656 |
| `resnet32_cifar` | 32, 64, 128 | 1,855,584 | 1,867,104 |
| `vgg19_cifar` | 64 to 512 | 20,024,000 | 20,070,080 |

The ResNets are those of He et al. (2016), section 4.2, with a 1x1 convolution and batch normalization on shortcuts
that change the shape. `resnet32_cifar` is twice as wide, as in the ProbMask paper. `resnet8_cifar` has one block per
stage and the size of MLPerf Tiny's network for CIFAR-10. `vgg19_cifar` has sixteen convolutions with batch
normalization, four max-pooling layers and global average pooling. Convolutions and classifiers have no bias. Weights
are initialized Kaiming-normal (fan-in, ReLU), batch normalization with scale 1 and shift 0.
"""

from __future__ import annotations

from typing import Any, cast

import timm

from pruneboard.errors import UsageError
from pruneboard.models.names import register
from pruneboard.models.standalone import RESNETS, CifarNet, cifar_resnet, cifar_vgg

default_cfgs = timm.models.generate_default_cfgs(
    {
        name: {
            "input_size": (3, 32, 32),
            "num_classes": 10,
            "mean": (0.4914, 0.4822, 0.4465),
            "std": (0.2470, 0.2435, 0.2616),
            "crop_pct": 1.0,
            "first_conv": "body.conv1",
            "classifier": "fc",
        }
        for name in ("resnet8_cifar", "resnet20_cifar", "resnet32_cifar", "vgg19_cifar")
    }
)
"""timm reads this when the names below are registered; none of them has pretrained weights."""


def _build(make: Any, name: str, *, pretrained: bool, **kwargs: Any) -> CifarNet:
    if pretrained:
        raise UsageError(f"no pretrained weights exist for {name}: use --init random or a .safetensors file")
    return cast("CifarNet", timm.models.build_model_with_cfg(make, name, pretrained=False, **kwargs))


@register
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-8 for small images: three stages of one block, widths 16, 32, 64."""
    return _build(cifar_resnet, "resnet8_cifar", pretrained=pretrained, **{**RESNETS["resnet8_cifar"], **kwargs})


@register
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-20 for 32x32 images: three stages of three blocks, widths 16, 32, 64."""
    return _build(cifar_resnet, "resnet20_cifar", pretrained=pretrained, **{**RESNETS["resnet20_cifar"], **kwargs})


@register
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-32 for 32x32 images: three stages of five blocks, widths 32, 64, 128."""
    return _build(cifar_resnet, "resnet32_cifar", pretrained=pretrained, **{**RESNETS["resnet32_cifar"], **kwargs})


@register
def vgg19_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """VGG-19 for 32x32 images: sixteen convolutions with batch normalization and one linear layer."""
    return _build(cifar_vgg, "vgg19_cifar", pretrained=pretrained, **kwargs)
