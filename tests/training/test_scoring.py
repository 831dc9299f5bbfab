"""The model view for scoring methods, its stream of images, and gradients of effective weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice

import pytest
import timm
import torch
from torch import nn

import networks  # noqa: F401 - registers the tiny ones
from pruneboard.api import Mask, MaskPruner
from pruneboard.errors import RunError
from pruneboard.experiment.prepare import prepare
from pruneboard.models import build_frozen, gated_layers, is_scale
from pruneboard.training import gates, loop
from pruneboard.training.scoring import (
    SCORING_OVER,
    ScoringView,
    dense_gradients,
    endless_batches,
    valid_during_scoring,
)
from runs import run, tiny
from training_cases import built as built_training

LAST_SCALES = {
    "test_resnet": {"layer1.0.bn2.weight", "layer2.0.bn2.weight", "layer3.0.bn3.weight", "layer4.0.bn2.weight"},
    "tiny_skipinit_nfnet": {f"stages.{i}.0.skipinit_gain" for i in range(4)},
    "test_nfnet": {f"stages.{i}.0.conv3.gain" for i in range(4)},
}


class Keep(MaskPruner):
    """Prunes nothing."""


def built(name="test_resnet"):
    """Return a network with timm's initial weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=10)


def viewed(net, **changes):
    """Return a view of a copy of `net` with gates, and the copy."""
    net = copy.deepcopy(net)
    targets = gated_layers(net)
    gates.unsqueeze_scalars(net)
    layers = gates.attach(Keep(sparsity=0.0), targets, gates.DrawKey(0), hits_target=True)
    return ScoringView(net, layers, 32, changes.get("label_smoothing", 0.0)), net


def images(count=4, dtype=torch.float32):
    """Return images, the same at every call."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", LAST_SCALES)
def test_every_branch_is_open(name):
    """A view computes the network whose last scales are 1, and does not change the network itself."""
    net = built(name)
    closed = {n for n, p in net.named_parameters() if not p.any() and not n.endswith("bias")}
    assert closed == LAST_SCALES[name]
    view, gated = viewed(net)
    before = {n: tensor.clone() for n, tensor in gated.state_dict().items()}
    found = {training: view.logits(images(), training=training) for training in (False, True)}
    assert all(torch.equal(before[n], tensor) for n, tensor in gated.state_dict().items())
    assert not torch.equal(found[False], net.eval()(images()))
    with torch.no_grad():
        for n in closed:
            net.get_parameter(n).fill_(1)
    for training, logits in found.items():
        torch.testing.assert_close(logits, net.train(training)(images()))


@pytest.mark.parametrize("name", LAST_SCALES)
def test_every_layer_of_an_opened_network_has_a_gradient(name):
    """As timm starts it, a residual branch has no gradient before the first step, and scoring would empty it."""
    view, gated = viewed(built(name))
    weights = [layer.dense.detach().requires_grad_() for layer in view.layers]
    batch = images(), torch.arange(4)
    assert all(bool(g.any()) for g in torch.autograd.grad(view.loss(batch, weights), weights))
    loss = nn.functional.cross_entropy(gated.train()(images()), batch[1])
    gradients = torch.autograd.grad(loss, [layer.dense for layer in view.layers])
    assert sum(not bool(g.any()) for g in gradients) >= len(LAST_SCALES[name])


def test_scales_that_are_not_all_zero_are_kept():
    """A scale with one channel other than 0 is used as it is, and so are shifts and prunable weights."""
    net = built()
    with torch.no_grad():
        for n in LAST_SCALES["test_resnet"]:
            net.get_parameter(n)[0] = 0.5
        net.fc.weight.zero_()
    view, _ = viewed(net)
    torch.testing.assert_close(view.logits(images()), net.train()(images()))


def test_scales_are_normalizations_and_gains():
    """No shift, no bias, and no weight of a convolution or linear layer is a scale."""
    convolution = built("test_nfnet").stages[0][0].conv3
    assert is_scale(nn.BatchNorm2d(1), "weight")
    assert is_scale(convolution, "gain")
    assert not is_scale(convolution, "weight")
    assert not is_scale(nn.BatchNorm2d(1), "bias")
    assert not is_scale(nn.Linear(1, 1), "weight")


@pytest.mark.parametrize("name", ["test_resnet", "tiny_skipinit_nfnet", "test_vit", "tiny_tied", "tiny_swin"])
@pytest.mark.parametrize("training", [True, False])
def test_float64_images_are_computed_in_float64(name, training):
    """The logits are those of the same network in float64, and the network itself does not change."""
    net = built(name)
    view, gated = viewed(net)
    found = view.logits(images(dtype=torch.float64), training=training)
    for module in net.modules():  # open, as the view is
        for own, parameter in module.named_parameters(recurse=False):
            if is_scale(module, own) and not parameter.any():
                parameter.data.fill_(1)
    for module in net.double().modules():  # Swin drops whole paths in training mode
        module.training = training and isinstance(module, nn.BatchNorm2d)
    expected = net(images(dtype=torch.float64))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert {t.dtype for t in gated.state_dict().values()} <= {torch.float32, torch.int64}
    assert view.logits(images(), training=training).dtype == torch.float32


def test_float64_is_differentiable_in_float32_weights():
    """Gradients have the dtype of the weights, and agree with those computed in float32."""
    view, _ = viewed(built("test_vit"))
    weights = [layer.dense.detach().requires_grad_() for layer in view.layers]
    found = [
        torch.autograd.grad(view.loss((images(dtype=dtype), torch.arange(4)), weights), weights)
        for dtype in (torch.float32, torch.float64)
    ]
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-5)


def test_nothing_is_drawn_and_no_mode_changes():
    """Dropout is off, so two calls agree; the mode of every module is restored."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(4 * 36, 10))
    net[1].eval()
    layers = gates.attach(Keep(sparsity=0.0), [("0", net[0]), ("4", net[4])], gates.DrawKey(0), hits_target=True)
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    view = ScoringView(net, layers, 8, 0.0)
    batch = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        assert torch.equal(view.logits(batch, training=training), view.logits(batch, training=training))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == modes
    net.eval()[1].train()
    assert torch.equal(view.logits(batch), net(batch))


def test_batches_and_view_raise_after_scoring():
    """A method that keeps them cannot pass images that are not counted."""
    view, _ = viewed(built())
    with valid_during_scoring(view, iter([1, 2, 3])) as batches:
        assert next(batches) == 1
        assert view.logits(images()).shape == (4, 10)
    for late in (lambda: next(batches), lambda: view.logits(images()), lambda: view.loss((images(), torch.arange(4)))):
        with pytest.raises(RuntimeError, match="scoring is over") as caught:
            late()
        assert str(caught.value) == SCORING_OVER
    assert view.images == 4


@pytest.mark.parametrize("late", ["next(KEPT[1])", "KEPT[0].logits(torch.ones(1, 3, 32, 32))"])
def test_a_method_that_uses_them_later_fails_its_run(site, tmp_path, late):
    """A hook that uses the view or the batches of `score` ends the run with the reason."""
    source = f"""
    import torch
    from dataclasses import dataclass
    from pruneboard.api import ScoringPruner

    KEPT = []

    @dataclass(frozen=True, kw_only=True)
    class Thing(ScoringPruner):
        def score(self, view, batches):
            KEPT[:] = [view, batches]
            return [layer.dense.abs() for layer in view.layers]

        def diagnostics(self, layers, at):
            {late}
    """
    site.add("late", source)
    with pytest.raises(RunError, match="failed in diagnostics: RuntimeError: scoring is over"):
        run(tmp_path, "thing")


def on_rank_1_of_2(made):
    """Give a training the plan that it would have on rank 1 of two processes."""
    made.plan = replace(made.plan, rank=1, world=2, micro_batch=made.plan.micro_batch // 2)
    return made


@pytest.mark.parametrize(("model", "charged"), [("tiny_mixer", 128), ("test_resnet", 2 * 128)])
def test_scores_do_not_depend_on_the_number_of_processes(tmp_path, model, charged):
    """Masks and the number of images are those of one process, with and without batch normalization."""
    one, two = (built_training(tmp_path, "snip", model=model) for _ in range(2))
    for made in (one, on_rank_1_of_2(two)):
        loop.prune_before_training(made)
    assert one.state.scoring_passes == two.state.scoring_passes == charged
    for a, b in zip(one.layers, two.layers, strict=True):
        assert torch.equal(a.gate.keep, b.gate.keep)


def test_the_stream_is_the_same_for_any_number_of_processes(tmp_path):
    """It yields the requested micro-batch in the same order with the same crops, and does not end with the epoch."""
    one, two = (built_training(tmp_path, "magnitude", model="tiny_mixer") for _ in range(2))
    streams = [endless_batches(made.dataset, made.plan, 16) for made in (one, on_rank_1_of_2(two))]
    found = [list(islice(stream, 20)) for stream in streams]  # an epoch has eight of them
    for (a, labels), (b, others) in zip(*found, strict=True):
        assert a.shape == (16, 3, 32, 32)
        assert torch.equal(a, b)
        assert torch.equal(labels, others)
    assert not torch.equal(found[0][0][0], found[0][8][0])


def test_a_frozen_network_is_open_already():
    """On the supermask track all gains start at 1, so the view computes the network as it is."""
    job, _ = prepare(tiny("unused", "random", track="supermask", sparsity=0.5))
    net = build_frozen(job.plan, init="signed-constant", keep_ratio=0.5, seed=0)
    view, _ = viewed(net)
    torch.testing.assert_close(view.logits(images()), net.train()(images()))


def test_dense_gradient_is_the_gradient_of_the_effective_weight():
    """Summed over two backward passes, it equals autograd's gradient with respect to `weight * keep`."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4, bias=False))
    inputs = torch.randn(3, 6)

    class Half(MaskPruner):
        pass

    layers = gates.attach(Half(sparsity=0.5), [("0", net[0])], gates.DrawKey(0), hits_target=True)
    layers[0].gate.set(torch.arange(24).reshape(4, 6) % 2)
    with dense_gradients(layers, wanted=True) as found:
        for _ in range(2):
            net(inputs).square().sum().backward()
    effective = (layers[0].dense * layers[0].gate.keep).detach().requires_grad_()
    (expected,) = torch.autograd.grad((inputs @ effective.T).square().sum(), effective)
    torch.testing.assert_close(found[0], 2 * expected)
    assert isinstance(layers[0].gate, Mask)


def test_view_has_no_side_effect():
    """Logits under other weights leave weights, statistics, mode and gradients unchanged."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    layers = gates.attach(Keep(sparsity=0.0), [("0", net[0]), ("4", net[4])], gates.DrawKey(0), hits_target=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    view = ScoringView(net.eval(), layers, 8, 0.0)
    images = torch.randn(5, 3, 8, 8)
    doubled = [2 * layer.dense.detach() for layer in layers]
    assert not torch.equal(view.logits(images, doubled), view.logits(images))
    assert view.logits(images, training=False, rest=torch.abs).shape == (5, 10)
    assert view.images == 15
    assert not net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
