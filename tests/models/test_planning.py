"""Planning a network: image sizes, classifiers, and the arguments of timm."""

from __future__ import annotations

import pytest
import timm
import torch

from model_cases import plan
from pruneboard.errors import UsageError
from pruneboard.models import build_model


def test_an_unsuitable_image_size_is_refused_with_one_that_fits():
    """A network too deep for the images is refused before it is built, with the size to use."""
    with pytest.raises(UsageError, match=r"inception_v4 does not accept images of 32 px .* use --image-size 299"):
        plan("inception_v4")


@pytest.mark.skipif(not timm.is_model("qwen3_vit_88m_enc"), reason="this timm has no encoder among its models")
def test_a_network_without_class_scores_is_refused():
    """An encoder of timm cannot be used as an image classifier."""
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
def test_timm_rebuilds_the_network_from_the_plan(name, stem):
    """A saved state loads strictly into the network that timm builds from the plan, and gives equal scores."""
    made = plan(name, stem=stem)
    model = build_model(made, seed=3).eval()
    again = timm.create_model(made.load_as, **made.create_args).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


def test_planning_does_not_change_the_global_generator():
    """Trying a network on the meta device or the CPU restores the random state."""
    before = torch.get_rng_state()
    plan("swin_tiny_patch4_window7_224")
    assert torch.equal(before, torch.get_rng_state())


def test_a_plan_knows_whether_images_are_normalized_together():
    """A ResNet normalizes images by their batch, a vision transformer does not."""
    assert plan("resnet20_cifar").batch_statistics
    assert not plan("test_vit").batch_statistics
