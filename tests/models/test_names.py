"""Model names: registration with timm, and unknown names and tags."""

from __future__ import annotations

import importlib
import warnings

import pytest
import timm

from model_cases import plan
from pruneboard import models
from pruneboard.errors import UnknownNameError
from pruneboard.models.names import pretrained_tags, split_name


def test_importing_twice_registers_once():
    """Reloading the modules that register names overwrites nothing and warns of nothing."""
    before = timm.list_models()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(models.stems)
        importlib.reload(models.cifar)
    assert timm.list_models() == before


def test_registration_adds_the_cifar_networks_and_the_small_stems():
    """All other names are still timm's own, and no new name has pretrained weights."""
    ours = {n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("pruneboard.")}
    adapted = {n for n in ours if n.endswith("_small_stem")}
    assert ours - adapted == {"resnet8_cifar", "resnet20_cifar", "resnet32_cifar", "vgg19_cifar"}
    assert all(timm.is_model(n.removesuffix("_small_stem")) for n in adapted)
    assert not [n for n in timm.list_models(pretrained=True) if n.partition(".")[0] in ours]


def test_listed_names_omit_the_small_stems():
    """The list has the names of timm and pruneboard, each once, and no small stem."""
    names = models.model_names()
    assert {"resnet50", "vgg19_cifar"} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.endswith("_small_stem")]


def test_a_name_is_an_architecture_and_a_pretrained_tag():
    """The tag follows the first dot; a small stem has the tags of its stock network."""
    assert split_name("resnet50.a1_in1k") == ("resnet50", "a1_in1k")
    assert split_name("resnet50") == ("resnet50", "")
    assert "a1_in1k" in pretrained_tags("resnet18")
    assert pretrained_tags("resnet18_small_stem") == pretrained_tags("resnet18")
    assert pretrained_tags("resnet20_cifar") == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet81", "resnet18"), ("vgg19_cifr", "vgg19_cifar"), ("vit_tiny_patch16_22", "vit_tiny_patch16_224")],
)
def test_an_unknown_model_is_refused_with_a_suggestion(name, near):
    """A misspelled model is refused with the name that was probably meant."""
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}': did you mean .*{near}"):
        plan(name)


@pytest.mark.parametrize(
    "name", ["", ".", "hf-hub:timm/resnet18", "local-dir:x", "../resnet18", "resnet*", "tv_resnet34"]
)
def test_only_listed_names_are_models(name):
    """Paths, hub addresses, patterns and deprecated names are refused."""
    with pytest.raises(UnknownNameError, match="unknown model"):
        plan(name)


def test_an_unknown_pretrained_tag_is_refused():
    """Without this check, timm would silently ignore the tag."""
    with pytest.raises(UnknownNameError, match=r"unknown pretrained tag of resnet18 'a1_in21k': did you mean a1_in1k"):
        plan("resnet18.a1_in21k")
