"""The networks: names, the stem rule, the plan, the prunable scope."""

from __future__ import annotations

import importlib
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize

from model_cases import plan
from pruneboard import models
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.models import build_model, decays, prunable_layers


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
    """The ProbMask paper's networks hold exactly the weights it counts, and beside them only normalization."""
    for classes, expected in ((10, ten), (100, hundred)):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=classes)
        assert prunable_count(model) == expected
        assert norm_count(model) == norm
        assert sum(p.numel() for p in model.parameters()) == expected + norm


@pytest.mark.parametrize("name", ["resnet8_cifar", "resnet20_cifar", "resnet32_cifar", "vgg19_cifar"])
def test_paper_networks_start_kaiming_normal(name):
    """Every weight is drawn with variance 2 / fan-in, and normalization starts as the identity."""
    model = build_model(plan(name), seed=0)
    for layer_name, layer in prunable_layers(model):
        fan_in = layer.weight[0].numel()
        spread = layer.weight.var().item() * fan_in / 2
        assert spread == pytest.approx(1, abs=6 * (2 / layer.weight.numel()) ** 0.5), layer_name
        assert layer.bias is None
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all() and (module.bias == 0).all())


def test_paper_networks_behave_as_timm_users_expect():
    """Features, head, classifier and channels work the way they do for timm's own networks."""
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
    """Asking timm for pretrained weights of them says that there are none."""
    with pytest.raises(UsageError, match="no pretrained weights exist for vgg19_cifar"):
        timm.create_model("vgg19_cifar", pretrained=True)


def test_importing_twice_registers_once():
    """Importing the registering modules again overwrites nothing and warns of nothing."""
    before = timm.list_models()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(models.stems)
        importlib.reload(models.cifar)
    assert timm.list_models() == before


def test_other_names_of_timm_stay_as_they_are():
    """Registration adds the three networks and the small stems; every other name still is timm's own."""
    ours = {n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("pruneboard.")}
    adapted = {n for n in ours if n.endswith("_small_stem")}
    assert ours - adapted == {"resnet8_cifar", "resnet20_cifar", "resnet32_cifar", "vgg19_cifar"}
    assert all(timm.is_model(n.removesuffix("_small_stem")) for n in adapted)
    assert not [n for n in timm.list_models(pretrained=True) if n.partition(".")[0] in ours]


@pytest.mark.parametrize(
    ("name", "size", "original", "enlarged", "asked", "stem", "load_as", "extra"),
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
def test_stem_rule(name, size, original, enlarged, asked, stem, load_as, extra):
    """The stem follows the written rule, and the plan names what timm must be given to make it."""
    made = plan(name, size=size, original=original, enlarged=enlarged, stem=asked)
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
def test_a_stem_that_cannot_be_had_is_refused(name, stem, message):
    """Asking for a stem that the network does not offer is an error, not something else quietly built."""
    with pytest.raises(UsageError, match=message):
        plan(name, stem=stem)


def test_small_stem_of_a_resnet_keeps_the_resolution():
    """The first convolution is 3x3 with stride 1, the max-pool is gone, and all behind equals the stock network."""
    small = build_model(plan("resnet18"), seed=0)
    stock = build_model(plan("resnet18", stem="stock"), seed=0)
    conv = small.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert small.maxpool(small.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    ours, theirs = small.state_dict(), stock.state_dict()
    assert [n for n in theirs if not torch.equal(theirs[n], ours[n])] == ["conv1.weight"]


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "resnetaa50", "mobilenetv3_small_050", "efficientnet_b0"])
def test_small_stem_feeds_the_first_block_every_pixel(name):
    """Deep, anti-aliased and mobile stems also stop shrinking the image."""
    shapes = []
    with torch.device("meta"):
        model = timm.create_model(f"{name}_small_stem").eval()
        first = model.blocks if hasattr(model, "blocks") else model.layer1
        first.register_forward_pre_hook(lambda _m, inputs: shapes.append(inputs[0].shape[-2:]))
        model(torch.empty(1, 3, 32, 32))
    assert shapes == [(32, 32)]


def test_small_stem_is_a_classifier_only():
    """The feature pyramid of a small stem is refused: timm's table of reductions would be wrong for it."""
    with pytest.raises(UsageError, match="features_only"):
        timm.create_model("resnet18_small_stem", features_only=True)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet81", "resnet18"), ("vgg19_cifr", "vgg19_cifar"), ("vit_tiny_patch16_22", "vit_tiny_patch16_224")],
)
def test_an_unknown_model_is_answered_with_the_nearest(name, near):
    """A misspelt model is refused with the name that was probably meant."""
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}': did you mean .*{near}"):
        plan(name)


@pytest.mark.parametrize(
    "name", ["", ".", "hf-hub:timm/resnet18", "local-dir:x", "../resnet18", "resnet*", "tv_resnet34"]
)
def test_only_listed_names_are_models(name):
    """Paths, hub addresses, patterns and deprecated names are no models."""
    with pytest.raises(UnknownNameError, match="unknown model"):
        plan(name)


def test_an_unknown_pretrained_tag_is_refused():
    """A tag that timm does not know would quietly be ignored by timm."""
    with pytest.raises(UnknownNameError, match=r"unknown pretrained tag of resnet18 'a1_in21k': did you mean a1_in1k"):
        plan("resnet18.a1_in21k")


def test_a_size_the_network_cannot_see_names_one_it_can():
    """A network too deep for the images says so before anything is built, with the size to use."""
    with pytest.raises(UsageError, match=r"inception_v4 does not accept images of 32 px .* use --image-size 299"):
        plan("inception_v4")


@pytest.mark.skipif(not timm.is_model("qwen3_vit_88m_enc"), reason="this timm has no encoder among its models")
def test_an_encoder_is_no_classifier():
    """A timm network that gives no class scores is refused."""
    with pytest.raises(UsageError, match="cannot be used as an image classifier"):
        plan("qwen3_vit_88m_enc")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("test_resnet", "stock"),
        ("test_resnet", "small"),
        ("resnet18", "small"),
        ("test_vit", "stock"),
        ("test_vit", "small"),
        ("mobilenetv3_small_050", "small"),
        ("vgg19_cifar", None),
    ],
)
def test_the_plan_loads_again_through_timm(name, stem):
    """A state saved from a built network loads strictly into what timm makes of the plan, and gives equal scores."""
    made = plan(name, stem=stem)
    model = build_model(made, seed=3).eval()
    again = timm.create_model(made.load_as, **made.create_args).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


def test_resnet18_has_21_prunable_layers():
    """ResNet-18: seventeen convolutions, three shortcuts and the classifier, in the network's order."""
    layers = prunable_layers(timm.create_model("resnet18"))
    assert len(layers) == 21
    assert [layers[0][0], layers[-1][0]] == ["conv1", "fc"]
    assert all(isinstance(layer, (nn.Conv2d, nn.Linear)) for _, layer in layers)


def test_a_tied_weight_counts_once():
    """A weight shared by two layers is prunable once, under its first name."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert [name for name, _ in prunable_layers(model)] == ["0"]


def test_a_model_without_layers_is_refused():
    """There is nothing to prune in a network of normalization alone."""
    with pytest.raises(UsageError, match="nothing to prune"):
        prunable_layers(nn.Sequential(nn.BatchNorm2d(3)))


def test_batch_statistics_are_seen():
    """A ResNet normalizes images by their batch, a vision transformer does not."""
    assert models.uses_batch_statistics(timm.create_model("resnet20_cifar"))
    assert plan("resnet20_cifar").batch_statistics
    assert not models.uses_batch_statistics(timm.create_model("test_vit"))
    assert not plan("test_vit").batch_statistics


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_only_weights_decay(name):
    """Weight decay reaches exactly the prunable weights: no bias, norm, layer scale, embedding or token."""
    model = timm.create_model(name)
    decaying = {n for n, p in model.named_parameters() if decays(n, p)}
    assert decaying == {f"{n}.weight" for n, _ in prunable_layers(model)}


def test_weights_of_other_layers_decay_too():
    """What the scope leaves out is still a weight, whatever its layer calls it; biases are none."""
    lstm = nn.LSTM(3, 4)
    assert {n for n, p in lstm.named_parameters() if decays(n, p)} == {"weight_ih_l0", "weight_hh_l0"}
    attention = nn.MultiheadAttention(4, 2)
    decaying = {n for n, p in attention.named_parameters() if decays(n, p)}
    assert decaying == {"in_proj_weight", "out_proj.weight"}
    assert models.left_out(attention) == {"in_proj_weight": 48}


def test_a_gated_weight_decays_under_its_new_name():
    """A weight keeps its decay when a gate is put in front of it."""
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    assert {n: decays(n, p) for n, p in layer.named_parameters()} == {
        "bias": False,
        "parametrizations.weight.original": True,
    }


def test_listed_names_hide_the_adapted_stems():
    """The names offered to users hold timm's and ours, each once, and no adapted stem."""
    names = models.model_names()
    assert {"resnet50", "vgg19_cifar"} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.endswith("_small_stem")]
