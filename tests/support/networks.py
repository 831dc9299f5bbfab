"""Small networks of timm's classes, and a few unusual ones, registered with timm for tests."""

from __future__ import annotations

from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.mlp_mixer import MlpMixer
from timm.models.nfnet import test_nfnet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vgg import VGG
from torch import nn

from pruneboard.models.names import register


class Tied(nn.Module):
    """Two of its linear layers share one weight; its `mix` is a one-dimensional convolution."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.first = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.mix = nn.Conv1d(24, 24, 3, padding=1, groups=24)
        self.second = nn.Linear(24, 24)
        self.second.weight = self.first.weight
        self.head = nn.Linear(24, num_classes)

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = x + self.norm(self.first(x).relu())
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.second(x).relu()).mean(1))


class TiedToEmbedding(Tied):
    """Its head shares its weight with an embedding."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.classes = nn.Embedding(num_classes, 24)
        self.head.weight = self.classes.weight


class TiedToAttribute(Tied):
    """Its head's weight is also an attribute of another name."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.prototypes = self.head.weight


class Undecided(Tied):
    """Its forward pass branches on its input, which torch.compile cannot put into one graph."""

    def forward(self, images):
        return super().forward(-images if images.sum() > 0 else images)


def _entry(name, build, **sizes):
    """Register a network with timm: `build` with these sizes. Of timm's arguments it receives the number of classes."""

    def entry(pretrained=False, **kwargs):
        return build(num_classes=kwargs.get("num_classes", 10), **sizes)

    entry.__name__ = name
    register(entry)


_WINDOWS = {"img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
_TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

_entry("tiny_vgg", VGG, cfg=[16, "M", 16, "M", 32, "M", 32, "M", 32, "M"], mlp_ratio=1 / 128)
_entry(
    "tiny_vgg_bn", VGG, cfg=[16, "M", 32, "M", 64, "M", 64, "M", 64, "M"], mlp_ratio=1 / 64, norm_layer=nn.BatchNorm2d
)
_entry("tiny_swin", SwinTransformer, **_WINDOWS)
_entry("tiny_swin_v2", SwinTransformerV2, **_WINDOWS)
_entry("tiny_mixer", MlpMixer, img_size=32, patch_size=8, num_blocks=2, embed_dim=32)
_entry("tiny_beit", Beit, **_TOKENS)
_entry("tiny_eva", Eva, **_TOKENS)
_entry("tiny_skipinit_nfnet", test_nfnet, skipinit=True)
_entry("tiny_tied", Tied)
_entry("tiny_tied_to_embedding", TiedToEmbedding)
_entry("tiny_tied_to_attribute", TiedToAttribute)
_entry("tiny_undecided", Undecided)
