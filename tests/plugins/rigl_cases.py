"""Shared by the tests of RigL: the official update in numpy, an optimizer for hooks, and a recorded real run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_cases import classifier
from torch import nn

from pruneboard.api import Progress
from pruneboard.training.gates import DrawKey, attach
from pruneboard.training.scoring import dense_gradients
from pruneboard_rigl import RigL
from runs import run

SHAPES = [(8, 3, 3, 3), (40, 30), (10, 40)]
SIZES = [math.prod(shape) for shape in SHAPES]


def highest(scores, k):
    """The k highest of `scores` as an array of 0 and 1; ties go to the lower index, as in TensorFlow's top_k."""
    chosen = np.zeros(scores.size)
    chosen[np.argsort(-scores.ravel(), kind="stable")[:k]] = 1
    return chosen.reshape(scores.shape)


def official_update(mask, weights, momentum, gradient, fraction):
    """`_get_update_op` of sparse_optimizers_base.py without its noise: new mask, weights and momentum."""
    score_drop = np.abs(mask * weights)
    score_grow = np.abs(gradient)
    ones = int(mask.sum())
    prune = int(ones * fraction)
    mask1 = highest(score_drop, ones - prune)
    lifted = np.where(mask1 == 1, score_grow.min() - 1, score_grow)
    mask2 = highest(lifted, prune)
    assert (mask1 * mask2).sum() == 0
    new = (mask2 == 1) & (mask == 0)
    return mask1 + mask2, np.where(new, 0.0, weights), np.where(new, 0.0, momentum)


class Stepper:
    """SGD with momentum and weight decay, and the writes that hooks may do to its parameters and state."""

    def __init__(self, net, lr=0.3, momentum=0.9, decay=0.02):
        self.sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=decay)

    def momentum(self, parameter):
        """The momentum buffer of a parameter."""
        return self.sgd.state[parameter]["momentum_buffer"]

    def assign(self, parameter, new):
        """Write in place."""
        with torch.no_grad():
            parameter.copy_(new)

    def reset_optimizer_state(self, parameter, mask):
        """Zero the momentum where `mask` is true."""
        self.momentum(parameter).masked_fill_(mask, 0)


def layers_of(pruner, net=None):
    """Attach a pruner to the linear layers of `net`, by default to a small network of SHAPES."""
    if net is None:
        net = {"conv": nn.Conv2d(3, 8, 3), "wide": nn.Linear(30, 40), "head": nn.Linear(40, 10)}
    else:
        net = {name: module for name, module in net.named_children() if isinstance(module, nn.Linear)}
    return attach(pruner, list(net.items()), DrawKey(0), hits_target=True)


def at(pruner, step, total, durable=None) -> Progress:
    """The state that hooks receive at `step` of a run of `total` train_steps, which hardens where the harness would."""
    harden = round(pruner.traits("prune").harden_at * total)
    draw_key = DrawKey(0)
    draw_key.step = step
    return Progress(step, total, harden, "search" if step < harden else "finetune", draw_key.hook_generator, durable)


def train_steps(pruner, total, disturb=lambda layers, stepper: None):
    """Train the classifier through the hooks, in the harness's order; yield the state after each step.

    `disturb` may change layers and optimizer after each step.
    """
    net, images, labels = classifier()
    layers, stepper = layers_of(pruner, net), Stepper(net)
    for t in range(total):
        now = at(pruner, t, total, stepper)
        if t == now.harden_step:
            pruner.harden(layers, now, lambda: pytest.fail("RigL must not validate"))
        elif t < now.harden_step:
            pruner.before_step(layers, now)
        stepper.sgd.zero_grad()
        moves = pruner.wants_gradients(now)
        with dense_gradients(layers, wanted=moves) as gradients:
            nn.functional.cross_entropy(net(images), labels).backward()
        stepper.sgd.step()
        if moves:
            pruner.update(layers, gradients, now)
        yield SimpleNamespace(
            step=t,
            moved=moves,
            masks=[layer.gate.keep.clone() for layer in layers],
            dense=[layer.dense.detach().clone() for layer in layers],
            momenta=[stepper.momentum(layer.dense).clone() for layer in layers],
        )
        disturb(layers, stepper)


def recorded(results, **changes):
    """A real run: its record, every update with the states around it, and the state after every search step."""
    update, updates, states = RigL.update, [], []

    def snapshot(layers, now):
        return SimpleNamespace(
            step=now.step,
            masks=[layer.gate.keep.bool() for layer in layers],
            dense=[layer.dense.detach().clone() for layer in layers],
            momenta=[now.durable.optimizer_state(layer.dense)["momentum_buffer"].clone() for layer in layers],
        )

    def recording_update(pruner, layers, gradients, now):
        before = snapshot(layers, now)
        update(pruner, layers, gradients, now)
        found = [gradient.clone() for gradient in gradients]
        updates.append(SimpleNamespace(at=now, before=before, after=snapshot(layers, now), gradients=found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RigL, "update", recording_update)
        patch.setattr(RigL, "after_step", lambda pruner, layers, now: states.append(snapshot(layers, now)))
        record = run(results, "rigl", **changes)
    return record, updates, states
