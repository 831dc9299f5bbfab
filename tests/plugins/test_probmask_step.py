"""A whole step of ProbMask's search in the real training loop, against the official step in plain PyTorch.

The official step is that of x-zho14/ProbMask-official@dff770a trainers/default.py:33-52.
"""

from __future__ import annotations

import math

import pytest
import torch
from probmask_cases import (
    EPOCHS,
    generator,
    official_inverse_temperature,
    official_mask,
    official_rate,
    official_shift,
    two_uniforms,
)
from torch import nn
from torch.nn import functional

from pruneboard.experiment.listeners import NullListener
from pruneboard.spec import Recipe
from pruneboard.training import engine as deepspeed_engine
from pruneboard.training.engine import Engine
from pruneboard.training.gates import DrawKey, attach, gate_parameters
from pruneboard.training.loop import train_step
from pruneboard.training.optim import parameter_groups
from pruneboard.training.state import Budget, InitialNetwork, Training
from pruneboard_probmask import ProbMask

RECIPE = Recipe(
    name="x", epochs=EPOCHS, batch_size=16, lr=0.1, image_size=8, weight_decay=5e-4, norm_weight_decay=5e-4, clip=0.05
)


def network():
    """A small network whose layers have no biases; its weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 10, bias=False),
        )


def initial_scores(shape, index):
    """Undecided probabilities for one layer."""
    return torch.rand(shape, generator=generator(50 + index)).mul(0.7).add(0.2)


def batch(step):
    """Sixteen images and their labels."""
    return torch.randn(16, 3, 8, 8, generator=generator(step)), torch.arange(16) % 10


@pytest.fixture
def ours():
    """A training run in the middle of ProbMask's search, under the real engine."""
    model = network()
    start = InitialNetwork.of(model, frozen=False)
    pruner = ProbMask(sparsity=0.5, travel=0.0)
    draw_key = DrawKey(7)
    layers = attach(pruner, [("0", model[0]), ("5", model[5])], draw_key, hits_target=True)
    for layer in layers:
        layer.gate.probability.data.copy_(initial_scores(layer.dense.shape, layer.index))
    groups = parameter_groups(model, gate_parameters(layers), RECIPE, pruner.gate_optimizer(EPOCHS))
    engine = Engine(
        model, groups, device=torch.device("cpu"), micro_batch=16, clip=RECIPE.clip, zero=0, precision="fp32"
    )
    budget = Budget(epochs=EPOCHS, steps_per_epoch=1, harden_step=EPOCHS, warmup=0)
    yield Training(
        engine=engine,
        pruner=pruner,
        layers=layers,
        dataset=None,  # one step needs its batches only
        plan=None,
        recipe=RECIPE,
        budget=budget,
        draw_key=draw_key,
        forward_passes=2,
        split_batch=False,
        method="probmask",
        listener=NullListener(),
        initial=start,
        checkpointer=None,  # nothing is saved
        start_time=0.0,
    )
    engine.close()
    deepspeed_engine.shutdown()


class Official:
    """The official step: two relaxed passes, one joint clip over scores and weights, Adam, SGD, projection."""

    def __init__(self, draw_key):
        self.model = network()
        self.weights = [self.model[0].weight, self.model[5].weight]
        self.scores = [nn.Parameter(initial_scores(w.shape, i)) for i, w in enumerate(self.weights)]
        self.adam = torch.optim.Adam(self.scores, lr=6e-3)
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.draw_key = draw_key

    def step(self, epoch, images, labels, *, split_batch=False):
        """Take one step; return the gradient norm before clipping."""
        for optimizer, peak in ((self.adam, 6e-3), (self.sgd, 0.1)):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)) * peak
        for forward_pass in range(2):
            seen = slice(forward_pass, None, 2) if split_batch else slice(None)
            logits = self.forward(epoch, forward_pass, images[seen])
            (functional.cross_entropy(logits, labels[seen]) / 2).backward()
        norm = nn.utils.clip_grad_norm_([*self.scores, *self.model.parameters()], RECIPE.clip)
        self.adam.step()
        self.sgd.step()
        with torch.no_grad():
            k = official_rate(epoch, 0.5) * sum(score.numel() for score in self.scores)
            v = official_shift(self.scores, k)
            for score in self.scores:
                score.copy_((score - v).clamp(0, 1))
        return float(norm)

    def forward(self, epoch, forward_pass, images):
        """The logits under one relaxed sample, from the random numbers that our gates draw at this step and pass."""
        self.draw_key.step, self.draw_key.forward_pass = epoch, forward_pass
        effective = {}
        for index, (name, weight, score) in enumerate(zip(("0", "5"), self.weights, self.scores, strict=True)):
            u = torch.empty(weight.shape).uniform_(generator=self.draw_key.gate_generator(index, weight.device))
            mask = official_mask(score.double(), official_inverse_temperature(epoch), *two_uniforms(u, forward_pass))
            effective[f"{name}.weight"] = weight * mask.float()
        return torch.func.functional_call(self.model, effective, (images,))


@pytest.mark.parametrize("split_batch", [False, True])
def test_steps_equal_the_official_ones(ours, split_batch):
    """Three steps of the real loop from epoch 100 on give the official weights and probabilities.

    The joint clip is active, momentum and Adam's moments carry over, and budget and temperature change. With
    `split_batch` each of the two samples sees every second image, and nothing else differs.
    """
    ours.split_batch = split_batch
    theirs = Official(DrawKey(7))
    for epoch in (100, 101, 102):
        assert theirs.step(epoch, *batch(epoch), split_batch=split_batch) > 2 * RECIPE.clip
        train_step(ours, epoch, [batch(epoch)])
        for layer, weight, score in zip(ours.layers, theirs.weights, theirs.scores, strict=True):
            torch.testing.assert_close(layer.dense, weight, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(layer.gate.probability, score, rtol=1e-4, atol=1e-5)
    rest = dict(ours.engine.model.named_parameters())
    for name in ("1.weight", "1.bias"):
        torch.testing.assert_close(rest[name], theirs.model.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_updated_once_per_step(ours):
    """Deviation: only the first of the two passes of a step updates the running statistics."""
    norm = ours.engine.model[1]
    images, labels = batch(0)
    train_step(ours, 100, [(images, labels)])
    assert int(norm.num_batches_tracked) == 1
    theirs = Official(DrawKey(7))
    theirs.step(100, images, labels)
    assert int(theirs.model[1].num_batches_tracked) == 2
    first = Official(DrawKey(7))
    first.forward(100, 0, images)
    torch.testing.assert_close(norm.running_mean, first.model[1].running_mean)
    torch.testing.assert_close(norm.running_var, first.model[1].running_var)


def test_the_search_starts_as_dense_training(ours):
    """While every probability is 1, neither Adam nor the projection changes it, and the steps equal dense training."""
    for layer in ours.layers:
        layer.gate.probability.data.fill_(1)
    plain = network()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in (0, 1, 2):
        train_step(ours, epoch, [batch(epoch)])
        sgd.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)) * 0.1
        sgd.zero_grad()
        functional.cross_entropy(plain(batch(epoch)[0]), batch(epoch)[1]).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), RECIPE.clip)
        sgd.step()
    for layer, weight in zip(ours.layers, (plain[0].weight, plain[5].weight), strict=True):
        assert bool((layer.gate.probability == 1).all())
        torch.testing.assert_close(layer.dense, weight, rtol=1e-4, atol=1e-6)
