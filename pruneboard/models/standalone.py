"""Build the network of an exported run with torch and timm alone: `build(name, arguments)`.

This file adds the networks that timm does not have: the small ResNets and VGG for 32x32 images (`*_cifar`), and timm's
networks with first layers adapted to small images (`*_small_stem`).

In pruneboard it is `pruneboard/models/standalone.py`, and every run builds these networks with it. An export that needs
it contains a copy as `network.py`; it imports nothing from pruneboard.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

import timm
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

SMALL_STEM = "_small_stem"
"""Suffix of the name of a timm network with adapted first layers."""

RESNETS: dict[str, dict[str, Any]] = {
    "resnet8_cifar": {"blocks": 1, "widths": (16, 32, 64)},
    "resnet20_cifar": {"blocks": 3, "widths": (16, 32, 64)},
    "resnet32_cifar": {"blocks": 5, "widths": (32, 64, 128)},
}
"""Blocks per stage and channels of the three stages, by name."""

VGG = "vgg19_cifar"
"""The name of the network that `cifar_vgg` builds."""


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network with random weights, into which the weights of the export can be loaded.

    Args:
        name: `network.name` in the export's description.
        arguments: `network.arguments` in the export's description.

    Raises:
        RuntimeError: timm has no network of this name.
    """
    if name in RESNETS:
        return cifar_resnet(**{**RESNETS[name], **arguments})
    if name == VGG:
        return cifar_vgg(**arguments)
    arch, dot, tag = name.partition(".")
    model: nn.Module = timm.create_model(arch.removesuffix(SMALL_STEM) + dot + tag, **arguments)
    if arch.endswith(SMALL_STEM):
        _shrink(arch.removesuffix(SMALL_STEM), model)
    return model


def _shrink(arch: str, model: nn.Module) -> None:
    for family, shrink in SURGERY.items():
        if timm.models.is_model_in_modules(arch, [family]):
            shrink(model)


def in_timm(name: str) -> bool:
    """Return whether timm can build the network of this name without this file."""
    return name not in RESNETS and name != VGG and not name.partition(".")[0].endswith(SMALL_STEM)


class CifarNet(nn.Module):
    """Convolutions, global pooling and a linear classifier without bias.

    Attributes:
        num_features: number of output channels of `body`.
        num_classes: number of outputs of the classifier; 0 means no classifier.
    """

    def __init__(
        self, body: nn.Sequential, num_features: int, *, num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        """Add the head to `body` (images -> `num_features` channels) and initialize all weights."""
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
        """Replace the classifier by a new one, and the pooling if `global_pool` is given."""
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
        """Return the class scores of a feature map, or the input of the classifier if `pre_logits`."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else cast("Tensor", self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, [batch, `num_classes`]."""
        return self.forward_head(self.forward_features(x))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

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
    """Initialize weights Kaiming-normal; batch normalization has scale 1 and shift 0 by default."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _resnet_body(blocks: int, widths: tuple[int, int, int], in_chans: int) -> nn.Sequential:
    """Return three stages of `blocks` blocks; the first block of the second and third stage halves the side."""
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
    """Return a convolution, normalization and ReLU per width, with 2x2 max-pooling between groups."""
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


def cifar_resnet(
    *,
    blocks: int,
    widths: tuple[int, int, int],
    num_classes: int = 10,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
) -> CifarNet:
    """Return a three-stage ResNet for images of 32 px, as in He et al. (2016), section 4.2."""
    body = _resnet_body(blocks, widths, in_chans)
    return CifarNet(body, widths[-1], num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)


def cifar_vgg(
    *, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0
) -> CifarNet:
    """Return VGG-19 with batch normalization, four max-pooling layers and one linear layer."""
    body = _vgg_body(_VGG19, in_chans)
    return CifarNet(body, _VGG19[-1][-1], num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)


def _shrink_resnet(model: Any) -> None:
    if isinstance(model.conv1, nn.Conv2d):
        model.conv1 = _three_by_three(model.conv1)
    else:
        model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()


def _three_by_three(old: nn.Conv2d) -> nn.Conv2d:
    """Return a 3x3 convolution with the same channels, initialized like those of timm's ResNets."""
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None)
    new = new.to(old.weight.device, old.weight.dtype)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _shrink_mobile(model: Any) -> None:
    model.conv_stem.stride = (1, 1)


SURGERY: dict[str, Callable[[Any], None]] = {
    "resnet": _shrink_resnet,
    "efficientnet": _shrink_mobile,
    "mobilenetv3": _shrink_mobile,
}
"""By timm family: the function that changes the first layers after construction, for `<name>_small_stem`."""
