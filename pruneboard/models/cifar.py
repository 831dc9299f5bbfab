"""The networks of the ProbMask paper for 32x32 images, and a very small one, registered with timm.

| name | widths | prunable weights, 10 classes | 100 classes |
|---|---|---|---|
| `resnet8_cifar` | 16, 32, 64 | 77,360 | 83,120 |
| `resnet20_cifar` | 16, 32, 64 | 270,896 | 276,656 |
| `resnet32_cifar` | 32, 64, 128 | 1,855,584 | 1,867,104 |
| `vgg19_cifar` | 64 to 512 | 20,024,000 | 20,070,080 |

The ResNets are those of He et al. (2016), section 4.2, with 1x1 convolution and batch normalization on the
shortcuts that change shape; `resnet32_cifar` is twice as wide, as the paper has it, and `resnet8_cifar`, with one
block a stage, is as large as MLPerf Tiny's network for CIFAR-10. `vgg19_cifar` has sixteen
convolutions with batch normalization, four max-pools and global average pooling. No convolution and no
classifier has a bias. All weights are Kaiming-normal (fan-in, ReLU); normalization starts at scale 1, shift 0.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import timm
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from pruneboard.errors import UsageError
from pruneboard.models.names import register

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
"""Read by timm when the names below are registered; none of them has a source of weights."""


class CifarNet(nn.Module):
    """Convolutions, global pooling and a linear classifier without bias.

    Attributes:
        num_features: channels that `body` ends with.
        num_classes: outputs of the classifier; 0 leaves it out.
    """

    def __init__(
        self, body: nn.Sequential, num_features: int, *, num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        """Take `body` (images -> `num_features` channels), add the head and draw all weights."""
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.body = body
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        self.body.apply(_draw)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a freshly drawn one, and the pooling where one is named."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        fc = nn.Linear(self.num_features, num_classes, bias=False) if num_classes else nn.Identity()
        self.fc = fc.to(next(self.body.parameters()).device)
        _draw(self.fc)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, [batch, `num_features`, height, width]."""
        return cast("Tensor", self.body(x))

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return class scores of a feature map, or what the classifier would see."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else cast("Tensor", self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, [batch, `num_classes`]."""
        return self.forward_head(self.forward_features(x))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return cast("Tensor", self.relu(self.bn2(self.conv2(out)) + self.shortcut(x)))


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _draw(module: nn.Module) -> None:
    """Kaiming-normal weights; batch normalization starts at scale 1 and shift 0 by itself."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _resnet_body(blocks: int, widths: tuple[int, int, int], in_chans: int) -> nn.Sequential:
    """`blocks` blocks in each of three stages; the second and third halve the side in their first block."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv3(in_chans, widths[0]), bn1=nn.BatchNorm2d(widths[0]), relu1=nn.ReLU(inplace=True)
    )
    inputs = widths[0]
    for stage, width in enumerate(widths, start=1):
        first = _Block(inputs, width, stride=1 if stage == 1 else 2)
        parts[f"stage{stage}"] = nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))
        inputs = width
    return nn.Sequential(parts)


_VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def _vgg_body(groups: tuple[tuple[int, ...], ...], in_chans: int) -> nn.Sequential:
    """Convolution, normalization and ReLU for each width, a 2x2 max-pool between groups."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, index = in_chans, 0
    for number, group in enumerate(groups):
        if number:
            parts[f"pool{number}"] = nn.MaxPool2d(2)
        for width in group:
            index += 1
            parts[f"conv{index}"] = _conv3(inputs, width)
            parts[f"bn{index}"] = nn.BatchNorm2d(width)
            parts[f"relu{index}"] = nn.ReLU(inplace=True)
            inputs = width
    return nn.Sequential(parts)


def _resnet(
    *,
    blocks: int,
    widths: tuple[int, int, int],
    num_classes: int = 10,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
) -> CifarNet:
    body = _resnet_body(blocks, widths, in_chans)
    return CifarNet(body, widths[-1], num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)


def _vgg(*, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0) -> CifarNet:
    body = _vgg_body(_VGG19, in_chans)
    return CifarNet(body, _VGG19[-1][-1], num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)


def _build(make: Any, name: str, *, pretrained: bool, **kwargs: Any) -> CifarNet:
    if pretrained:
        raise UsageError(f"no pretrained weights exist for {name}: use --init random or a .safetensors file")
    return cast("CifarNet", timm.models.build_model_with_cfg(make, name, pretrained=False, **kwargs))


@register
def resnet8_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-8 for small images: three stages of one block, widths 16, 32, 64."""
    return _build(_resnet, "resnet8_cifar", pretrained=pretrained, **{"blocks": 1, "widths": (16, 32, 64), **kwargs})


@register
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-20 for 32x32 images: three stages of three blocks, widths 16, 32, 64."""
    return _build(_resnet, "resnet20_cifar", pretrained=pretrained, **{"blocks": 3, "widths": (16, 32, 64), **kwargs})


@register
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """ResNet-32 for 32x32 images: three stages of five blocks, widths 32, 64, 128."""
    return _build(_resnet, "resnet32_cifar", pretrained=pretrained, **{"blocks": 5, "widths": (32, 64, 128), **kwargs})


@register
def vgg19_cifar(pretrained: bool = False, **kwargs: Any) -> CifarNet:  # noqa: FBT001, FBT002 - timm's signature
    """VGG-19 for 32x32 images: sixteen convolutions with batch normalization and one linear layer."""
    return _build(_vgg, "vgg19_cifar", pretrained=pretrained, **kwargs)
