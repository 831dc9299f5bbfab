"""Planning a network: image sizes, classifiers, and the arguments of timm."""

from __future__ import annotations

import pytest
import timm
import torch

from model_cases import plan
from pruneboard.errors import UsageError
from pruneboard.models import build_model, planning


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


class ReadsValues(torch.nn.Module):
    """A classifier that the meta device cannot try out, because it reads a value."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3 * 32 * 32, 10)

    def forward(self, images):
        """Return class scores."""
        return self.fc(images.flatten(1)) * (1 if images.sum().item() >= 0 else 2)


def test_a_network_above_the_limit_is_not_built_with_values(monkeypatch):
    """If values are needed to try a network out, it is built on the CPU only up to the limit."""
    devices = []

    def create(device, *_):
        devices.append(device)
        with torch.device(device):
            return ReadsValues()

    monkeypatch.setattr(planning, "_create", create)
    for limit, built in ((None, True), (30_730, True), (30_729, False)):
        devices.clear()
        tried = planning._attempt("any", {"num_classes": 10}, 32, limit)
        assert isinstance(tried, torch.nn.Module) == built == ("cpu" in devices)


def test_a_network_on_the_meta_device_has_the_shapes_of_the_plan():
    """It has the names and shapes of the network that is built, and no memory."""
    made = plan("resnet20_cifar")
    built, empty = (model.state_dict() for model in (build_model(made, seed=0), planning.meta_model(made)))
    assert {name: value.shape for name, value in empty.items()} == {name: value.shape for name, value in built.items()}
    assert all(value.is_meta for value in empty.values())
