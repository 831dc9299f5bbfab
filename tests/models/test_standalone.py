"""The source file that exports contain as `network.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import timm
import torch

from pruneboard import models  # noqa: F401 - registers the names with timm
from pruneboard.models import standalone

CODE = """
import sys
import torch
import network
model = network.build("resnet8_cifar", {"num_classes": 7}).eval()
assert not [name for name in sys.modules if name.startswith("pruneboard")]
print(tuple(model(torch.zeros(2, 3, 32, 32)).shape))
"""


def test_a_copy_builds_networks_without_pruneboard(tmp_path):
    """The file alone, under another name, imports nothing from pruneboard and builds a network that runs."""
    shutil.copy(standalone.__file__, tmp_path / "network.py")
    command, environment = [sys.executable, "-c", CODE], {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "(2, 7)\n"), done.stderr


@pytest.mark.parametrize("name", ["resnet8_cifar", "test_resnet_small_stem"])
def test_weights_of_the_registered_network_load_into_the_standalone_one(name):
    """A state loads strictly into the network of `build`, which then gives the same scores."""
    registered = timm.create_model(name, num_classes=7).eval()
    alone = standalone.build(name, {"num_classes": 7}).eval()
    alone.load_state_dict(registered.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(alone(images), registered(images))


def test_timm_alone_builds_all_other_names():
    """The file is needed for CIFAR networks and small stems, with or without a pretrained tag."""
    assert [standalone.in_timm(name) for name in ("resnet18.a1_in1k", "convnext_atto")] == [True, True]
    needed = ("vgg19_cifar", "resnet18_small_stem", "resnet18_small_stem.a1_in1k")
    assert not any(standalone.in_timm(name) for name in needed)
