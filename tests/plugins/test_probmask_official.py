"""ProbMask beside the official equations, transcribed here in plain PyTorch and fed the same noise.

The formulas are those of x-zho14/ProbMask-official@dff770a: utils/conv_type.py:33-43 (relaxation),
utils/net_utils.py:83-120 (projection), main.py:95-111 (schedules), trainers/default.py:33-52 (the step).
"""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional

from pruneboard.api import Layer, Progress
from pruneboard.experiment.listeners import Silent
from pruneboard.spec import Recipe
from pruneboard.training import engine as deepspeed_door
from pruneboard.training.engine import Engine
from pruneboard.training.gates import DrawClock, attach, gate_parameters
from pruneboard.training.loop import train_step
from pruneboard.training.optim import parameter_groups
from pruneboard.training.state import Budget, Start, Training
from pruneboard_probmask import ProbMask
from pruneboard_probmask.gate import relaxed, sample_mask
from pruneboard_probmask.projection import project, shift
from writer import Writer

EPS = 1e-20
EPOCHS = 300


def generator(seed=0):
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def double(n, seed):
    """Uniform float64 draws."""
    return torch.rand(n, dtype=torch.float64, generator=generator(seed))


# --- the relaxed mask -------------------------------------------------------------------------------


def official_noise(u0, u1):
    """The difference of two Gumbels, as the official code draws it."""
    return -torch.log(torch.log(u0 + EPS) / torch.log(u1 + EPS) + EPS)


def official_mask(s, inverse_temperature, u0, u1):
    """The official relaxed mask, for autograd."""
    return torch.sigmoid((torch.log(s + EPS) - torch.log(1 - s + EPS) + official_noise(u0, u1)) * inverse_temperature)


def two_uniforms(u, seed):
    """Two uniform draws whose Gumbels differ by logit(u): u splits the sum of two exponentials, which is Gamma(2)."""
    gamma = -torch.log(torch.rand(2, *u.shape, dtype=torch.float64, generator=generator(seed))).sum(0)
    return torch.exp(-(1 - u.double()) * gamma), torch.exp(-u.double() * gamma)


def probabilities(n, seed):
    """Probabilities spread over the logits from -14 to 14, so that both ends of (0, 1) are met."""
    return torch.sigmoid(28 * double(n, seed) - 14)


@pytest.mark.parametrize("inverse_temperature", [1.0, 1.94, 5.2, 33.3])
def test_masks_equal_the_official_ones_on_the_same_noise(inverse_temperature):
    """From the official two uniforms, our one draw u = sigmoid(g) gives the same mask to 1e-6, in float64."""
    s, u0, u1 = probabilities(20_000, 1), double(20_000, 2), double(20_000, 3)
    u = torch.sigmoid(official_noise(u0, u1))
    ours = sample_mask(s, inverse_temperature, u.clone())
    assert float(u.min()) > 2.0**-25  # none of these draws is one that ours replaces
    torch.testing.assert_close(ours, official_mask(s, inverse_temperature, u0, u1), rtol=1e-6, atol=1e-25)


@pytest.mark.parametrize("inverse_temperature", [1.0, 1.94, 5.2, 33.3])
def test_values_and_gradients_equal_autograd_of_the_official_formula(inverse_temperature):
    """On the same noise the effective weight, dL/dw and dL/ds equal those of the official code to 1e-6, in float64."""
    s = probabilities(20_000, 1).requires_grad_()
    w, upstream = (torch.randn(20_000, dtype=torch.float64, generator=generator(i)) for i in (2, 3))
    w.requires_grad_()
    ours = relaxed(w, s, inverse_temperature, generator(4))
    u = torch.empty_like(s.detach()).uniform_(generator=generator(4))
    theirs = w * official_mask(s, inverse_temperature, *two_uniforms(u, 5))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-24)
    (to_w, to_s), (their_w, their_s) = (torch.autograd.grad(value, (w, s), upstream) for value in (ours, theirs))
    torch.testing.assert_close(to_w, their_w, rtol=1e-6, atol=1e-24)
    # 1 - m is known to 1e-16 only, and its slope divides that by s (1 - s)
    error = (to_s - their_s).abs() - 1e-6 * their_s.abs()
    assert bool((error <= 1e-13 * (inverse_temperature * upstream * w / (s * (1 - s))).abs()).all())


def test_the_two_uniforms_of_the_tests_are_uniform():
    """Their pair is uniform on the unit square, and its Gumbels differ by the logit of the given draw."""
    u = double(20_000, 1)
    u0, u1 = two_uniforms(u, 2)
    torch.testing.assert_close(official_noise(u0, u1), torch.logit(u), rtol=1e-8, atol=1e-8)
    assert all(scipy.stats.kstest(draw.numpy(), "uniform").pvalue > 0.01 for draw in (u0, u1))
    assert abs(scipy.stats.pearsonr(u0, u1).statistic) < 4 / math.sqrt(20_000)


def test_zero_gets_no_gradient_where_the_official_code_gives_one_by_chance():
    """A named deviation: with the official epsilon a probability of 0 has a slope at T = 1 and none at T = 33."""
    u0, u1 = double(100_000, 1), double(100_000, 2)
    slopes = []
    for inverse_temperature in (1.0, 33.3):
        s = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
        slopes.append(float(torch.autograd.grad(official_mask(s, inverse_temperature, u0, u1).sum(), s)[0].mean()))
        ours = relaxed(torch.ones_like(s), s, inverse_temperature, generator(3))
        assert not torch.autograd.grad(ours.sum(), s)[0].any()
    assert slopes[0] > 1
    assert slopes[1] == 0


def test_gradients_equal_the_official_ones_in_distribution():
    """On noise of their own the slopes dm/ds of both have one mean and one distribution."""
    s = torch.full((200_000,), 0.4, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(relaxed(torch.ones_like(s), s, 1.9, generator(5)).sum(), s)[0]
    theirs = torch.autograd.grad(official_mask(s, 1.9, double(200_000, 6), double(200_000, 7)).sum(), s)[0]
    error = math.sqrt(float(ours.var() + theirs.var()) / 200_000)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 0.01


# --- the projection ---------------------------------------------------------------------------------


def official_shift(scores, k):
    """The official bisection: on [0, max s], until |f| < 1e-3 or after the 21st midpoint, sums in float32."""

    def excess(v):
        return sum(float((score - v).clamp(0, 1).sum()) for score in scores) - k

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, max(float(score.max()) for score in scores)
    for _ in range(21):
        v = (low + high) / 2
        found = excess(v)
        if abs(found) < 1e-3:
            break
        low, high = (v, high) if found > 0 else (low, v)
    return v


def total_of(tensors):
    """The sum over all tensors, accumulated in float64."""
    return sum(float(tensor.sum(dtype=torch.float64)) for tensor in tensors)


@pytest.mark.parametrize("n", [1000, 100_000])
def test_projections_agree_and_only_the_official_one_exceeds_the_budget(n):
    """Both shifts are equal to the official tolerance, 2^-21 or 1e-3 of the sum; only its sums are ever above K."""
    exceeded = 0
    for seed in range(12):
        scores = [torch.rand(n, generator=generator(2 * seed)), torch.rand(n // 3, generator=generator(2 * seed + 1))]
        k = 0.1 * (seed + 1) / 3 * n
        v, theirs = shift(scores, k), official_shift(scores, k)
        active = total_of([((score > v) & (score < 1 + v)).double() for score in scores])
        assert abs(v - theirs) <= 2.0**-21 + 2e-3 / active
        assert total_of(project(scores, k)) <= k
        exceeded += total_of([(score - theirs).clamp(0, 1) for score in scores]) > k
    assert exceeded > 0


def test_the_official_projection_of_a_million_is_off_by_parts_of_a_weight():
    """Its 21 midpoints leave the sum off K by less than one weight in a million; ours is nearer and below."""
    scores = [torch.rand(1_000_000, generator=generator(1))]
    k = 300_000.0
    theirs = total_of([(scores[0] - official_shift(scores, k)).clamp(0, 1)]) - k
    ours = total_of(project(scores, k)) - k
    assert abs(theirs) < 1
    assert -abs(theirs) <= ours <= 0


# --- the schedules ----------------------------------------------------------------------------------


def official_rate(epoch, kept):
    """The kept fraction of an epoch of 300."""
    start, end = int(0.16 * EPOCHS), int(0.6 * EPOCHS)
    if epoch < start:
        return 1.0
    if epoch < end:
        return kept + (1 - kept) * (1 - (epoch - start) / (end - start)) ** 3
    return kept


def official_inverse_temperature(epoch):
    """T of an epoch of 300."""
    return 1 / ((1 - 0.03) * (1 - epoch / EPOCHS) + 0.03)


def at_epoch(epoch, steps_per_epoch):
    """What hooks are told at the first step of an epoch of 300, in a run that hardens after them."""
    step, harden = epoch * steps_per_epoch, EPOCHS * steps_per_epoch
    return Progress(step, harden + 20 * steps_per_epoch, harden, "search", generator, Writer())


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_every_epoch_starts_with_the_official_budget_and_temperature(steps_per_epoch):
    """Through the hooks, T and the sum of the probabilities are the official ones at each of the 300 epochs."""
    pruner = ProbMask(sparsity=0.9)
    weight = nn.Parameter(torch.randn(1000, dtype=torch.float64, generator=generator()))
    for epoch in range(EPOCHS):
        layer = Layer(0, "layer", weight, pruner.gate(weight.detach()), 100)
        at = at_epoch(epoch, steps_per_epoch)
        pruner.before_step([layer], at)
        pruner.after_step([layer], at)
        assert layer.gate.inverse_temperature == pytest.approx(official_inverse_temperature(epoch), rel=1e-12)
        assert float(layer.gate.probability.detach().sum()) == pytest.approx(1000 * official_rate(epoch, 0.1), rel=1e-9)


def test_within_an_epoch_ours_moves_on():
    """A named deviation: per step, the budget falls and T rises inside an epoch, between the official values."""
    pruner = ProbMask(sparsity=0.9)
    for epoch in (60, 100, 170):
        inside = (epoch + 0.5) / EPOCHS
        rate = 0.1 + 0.9 * pruner.kept_share(inside)
        assert official_rate(epoch + 1, 0.1) < rate < official_rate(epoch, 0.1)
        temperatures = [official_inverse_temperature(e) for e in (epoch, epoch + 1)]
        assert temperatures[0] < pruner.inverse_temperature(inside) < temperatures[1]


# --- one step, whole --------------------------------------------------------------------------------

RECIPE = Recipe(
    name="x", epochs=EPOCHS, batch_size=16, lr=0.1, image_size=8, weight_decay=5e-4, norm_weight_decay=5e-4, clip=0.05
)


def network():
    """A small network without biases in its layers; the same weights every time."""
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
    """A training in the middle of ProbMask's search, under the real engine."""
    model = network()
    start = Start.of(model, frozen=False)
    pruner = ProbMask(sparsity=0.5, travel=0.0)
    clock = DrawClock(7)
    layers = attach(pruner, [("0", model[0]), ("5", model[5])], clock, hits_target=True)
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
        dataset=None,  # the loop of a step never asks for more than its batches
        plan=None,
        recipe=RECIPE,
        budget=budget,
        clock=clock,
        forward_passes=2,
        split_batch=False,
        method="probmask",
        listener=Silent(),
        start=start,
        checkpointer=None,  # nor is it saved
        began=0.0,
    )
    engine.close()
    deepspeed_door.shutdown()


class Official:
    """The official step: two relaxed passes, one joint clip over scores and weights, Adam, SGD, projection."""

    def __init__(self, clock):
        self.model = network()
        self.weights = [self.model[0].weight, self.model[5].weight]
        self.scores = [nn.Parameter(initial_scores(w.shape, i)) for i, w in enumerate(self.weights)]
        self.adam = torch.optim.Adam(self.scores, lr=6e-3)
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.clock = clock

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
        """The logits under one relaxed sample, on the noise that our gates draw at this place."""
        self.clock.step, self.clock.forward_pass = epoch, forward_pass
        effective = {}
        for index, (name, weight, score) in enumerate(zip(("0", "5"), self.weights, self.scores, strict=True)):
            u = torch.empty(weight.shape).uniform_(generator=self.clock.for_gate(index, weight.device))
            mask = official_mask(score.double(), official_inverse_temperature(epoch), *two_uniforms(u, forward_pass))
            effective[f"{name}.weight"] = weight * mask.float()
        return torch.func.functional_call(self.model, effective, (images,))


@pytest.mark.parametrize("split_batch", [False, True])
def test_steps_equal_the_official_ones(ours, split_batch):
    """From epoch 100 on, three steps of the real loop end in the official weights and probabilities.

    The joint clip is active, momentum and Adam's moments carry over, and budget and temperature move. With
    `split_batch` each of the two samples sees every second image, and nothing else is different.
    """
    ours.split_batch = split_batch
    theirs = Official(DrawClock(7))
    for epoch in (100, 101, 102):
        assert theirs.step(epoch, *batch(epoch), split_batch=split_batch) > 2 * RECIPE.clip
        train_step(ours, epoch, [batch(epoch)])
        for layer, weight, score in zip(ours.layers, theirs.weights, theirs.scores, strict=True):
            torch.testing.assert_close(layer.dense, weight, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(layer.gate.probability, score, rtol=1e-4, atol=1e-5)
    rest = dict(ours.engine.model.named_parameters())
    for name in ("1.weight", "1.bias"):
        torch.testing.assert_close(rest[name], theirs.model.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_recorded_once_a_step(ours):
    """A named deviation: of the two passes of a step only the first moves the running statistics."""
    norm = ours.engine.model[1]
    images, labels = batch(0)
    train_step(ours, 100, [(images, labels)])
    assert int(norm.num_batches_tracked) == 1
    theirs = Official(DrawClock(7))
    theirs.step(100, images, labels)
    assert int(theirs.model[1].num_batches_tracked) == 2
    first = Official(DrawClock(7))
    first.forward(100, 0, images)
    torch.testing.assert_close(norm.running_mean, first.model[1].running_mean)
    torch.testing.assert_close(norm.running_var, first.model[1].running_var)


def test_the_search_starts_as_dense_training(ours):
    """While every probability is 1 nothing moves it, not Adam and not the projection: the steps are the dense ones."""
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
