"""The trial training: its network, its data, and that it is repeatable and leaves the caller's state unchanged."""

from __future__ import annotations

import pytest
import torch
from sound import Sound, SoundScores
from torch import nn

from pruneboard.testing import trial
from pruneboard.testing.trial import KeepAll, Trial


def prunable(network):
    """The number of convolution and linear weights."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_the_network_has_1568_prunable_weights():
    """The small network has 1,568 prunable weights in five layers, and two more in the tiny layer."""
    assert prunable(trial.small_network()) == 1568
    assert prunable(trial.small_network(tiny_layer=True)) == 1570


def test_weights_depend_on_the_seed_only():
    """Equal seeds give equal weights, another seed others; the global random state does not change."""
    before = torch.get_rng_state()
    first = trial.small_network(seed=3).state_dict()
    torch.rand(1)
    second, other = trial.small_network(seed=3).state_dict(), trial.small_network(seed=4).state_dict()
    torch.set_rng_state(before)
    trial.small_network()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_every_class_is_in_every_split():
    """The training, validation and test images are balanced over the four classes."""
    dataset = trial.small_dataset()
    for split, count in ((dataset.train, 128), (dataset.validation, 32), (dataset.test, 32)):
        assert torch.bincount(split.labels).tolist() == [count // 4] * 4


def test_a_training_takes_sixteen_steps_and_keeps_the_budget():
    """The training has 16 steps, and its result counts the positions that the gates keep."""
    result = Trial(Sound(sparsity=0.9), "prune").train()
    assert result.run.budget.total == 16
    assert result.kept == 1568 - round(0.9 * 1568)
    assert sum(count.nonzero for count in result.counts) == result.kept


@pytest.mark.parametrize("track", ["prune", "supermask"])
def test_a_training_is_repeatable_and_keeps_the_random_state(track):
    """Two trainings give the same bits, and the global random state of torch is the same as before."""
    before = torch.get_rng_state()
    first, second = (Trial(SoundScores(sparsity=0.5), track).train().state for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state())


def test_training_changes_every_dense_layer():
    """Without pruning, every layer learns, and everything is kept."""
    result = Trial(KeepAll(sparsity=0.0), "prune").train()
    start = trial.small_network().state_dict()
    assert result.kept == 1568
    assert not any(torch.equal(result.state[f"{name}.weight"], start[f"{name}.weight"]) for name in trial.LAYER_NAMES)
