"""Evaluation counts every image once; running statistics are updated, frozen, restored and re-estimated."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from pruneboard.data import BatchPlan, eval_batches, open_dataset
from pruneboard.spec import Recipe
from pruneboard.training import engine as engine_module
from pruneboard.training.engine import Engine
from pruneboard.training.evaluate import (
    Metrics,
    average_batch_statistics,
    batch_norms,
    evaluate,
    frozen_batch_statistics,
    reestimate_statistics,
    restored_batch_statistics,
)
from pruneboard.training.optim import parameter_groups

CPU = torch.device("cpu")
RECIPE = Recipe(name="x", epochs=1, batch_size=8, lr=0.1, image_size=8)


def normal(*shape, seed=0) -> Tensor:
    """Return normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    """Return a small network with two normalization layers, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6, momentum=0.3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 10),
        )


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for the module; its model is the small network."""
    model = network()
    groups = parameter_groups(model, [], RECIPE, None)
    engine = Engine(model, groups, device=CPU, micro_batch=8, clip=3.0, zero=0, precision="fp32")
    yield engine
    engine.close()
    engine_module.shutdown()


def image_batches(count=3, size=8) -> list[tuple[Tensor, Tensor]]:
    """Return batches of images and labels, the same at every call."""
    return [(normal(size, 3, 8, 8, seed=i), torch.arange(size) % 10) for i in range(count)]


def buffers(model) -> dict[str, Tensor]:
    """Return a copy of all buffers."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_buffers_equal(model, before) -> None:
    """Assert that no buffer has changed a bit."""
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


# Counting


def split_of(n, classes, seed=0) -> tuple[Tensor, Tensor]:
    """Return logits and labels of n images; an identity network maps these 'images' to themselves."""
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    return normal(n, classes, seed=seed) + functional.one_hot(labels, classes), labels


def cut(logits, labels, size) -> list[tuple[Tensor, Tensor]]:
    """Split logits and labels into batches; the last one may be smaller."""
    return list(zip(logits.split(size), labels.split(size), strict=True))


def reference(logits, labels, classes) -> Metrics:
    """Return the metrics computed by plain Python, one image at a time."""
    rows, truth = logits.tolist(), labels.tolist()
    ranked = [sorted(range(classes), key=lambda c, row=row: -row[c]) for row in rows]
    right = [order[0] == label for order, label in zip(ranked, truth, strict=True)]
    five = [label in order[:5] for order, label in zip(ranked, truth, strict=True)]
    losses = [
        math.log(math.fsum(math.exp(v) for v in row)) - row[label] for row, label in zip(rows, truth, strict=True)
    ]
    by_class = [[r for r, label in zip(right, truth, strict=True) if label == c] for c in range(classes)]
    n = len(truth)
    return Metrics(
        top1=sum(right) / n,
        top5=sum(five) / n if classes > 10 else None,
        loss=math.fsum(losses) / n,
        correct=sum(right),
        count=n,
        worst_class_top1=min(sum(c) / len(c) for c in by_class if c),
    )


def assert_metrics_equal(found: Metrics, expected: Metrics) -> None:
    """Assert that all counts are equal, and the loss up to float32 rounding."""
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert {**found.as_dict(), "loss": 0} == {**expected.as_dict(), "loss": 0}


@given(st.integers(1, 60), st.sampled_from([2, 4, 10, 11, 30]), st.integers(1, 60), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_metrics_equal_a_count_image_by_image(n, classes, size, seed):
    """Top-1, top-5, loss and worst class equal a count in plain Python, for any batch size."""
    logits, labels = split_of(n, classes, seed)
    found = evaluate(nn.Identity(), cut(logits, labels, size), classes, lambda totals: totals)
    assert_metrics_equal(found, reference(logits, labels, classes))


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (10, False), (11, True)])
def test_top5_needs_more_than_ten_classes(classes, shown):
    """With ten classes or fewer, top-5 means nothing and is None."""
    logits, labels = split_of(40, classes)
    assert (evaluate(nn.Identity(), [(logits, labels)], classes, lambda t: t).top5 is not None) is shown


def test_the_worst_class_is_one_that_has_images():
    """Classes without images are ignored."""
    logits = torch.eye(12)[[0, 0, 1, 1, 1, 2]]
    found = evaluate(nn.Identity(), [(logits, torch.tensor([0, 0, 1, 1, 3, 2]))], 12, lambda totals: totals)
    assert (found.correct, found.count, found.worst_class_top1) == (5, 6, 0.0)
    found = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1, 1, 1, 1, 2]))], 12, lambda totals: totals)
    assert found.worst_class_top1 == 3 / 4


def test_the_loss_of_bfloat16_logits_is_computed_in_float32():
    """Logits in bfloat16 give the same loss as their float32 copies."""
    logits, labels = split_of(20, 10)
    rounded = logits.bfloat16()
    found = evaluate(nn.Identity(), [(rounded, labels)], 10, lambda totals: totals)
    assert_metrics_equal(found, reference(rounded.float(), labels, 10))


def over_ranks(shares, classes) -> list[Metrics]:
    """Evaluate each rank's batches, sum the counts as a collective would, and return the metrics of every rank."""
    collected: list[Tensor] = []

    def collect(totals):
        collected.append(totals)
        return torch.ones_like(totals)

    for batches in shares:
        evaluate(nn.Identity(), batches, classes, collect)
    total = torch.stack(collected).sum(0)
    return [evaluate(nn.Identity(), batches, classes, lambda _: total) for batches in shares]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 7), st.sampled_from([3, 12]))
@settings(deadline=None, max_examples=30)
def test_sharding_does_not_change_a_count(n, world, size, classes):
    """A split that is distributed over any number of ranks, some without images, gives every rank the same counts."""
    logits, labels = split_of(n, classes)
    shares = [cut(logits[rank::world], labels[rank::world], size) if rank < n else [] for rank in range(world)]
    for found in over_ranks(shares, classes):
        assert_metrics_equal(found, reference(logits, labels, classes))


def test_real_shares_have_each_image_once():
    """With the real sampler, three ranks count the validation images of digits exactly as one does."""
    dataset = open_dataset(
        "digits", data_dir=None, download=False, image_size=8, val_fraction=0.2, limit_train=200, split_seed=0
    )
    split, classes = dataset.validation, len(dataset.classes)
    shares = [
        [
            (images.flatten(1)[:, :classes], labels)
            for images, labels in eval_batches(split, dataset, BatchPlan.for_evaluation(7, CPU, rank=rank, world=world))
        ]
        for world in (1, 3)
        for rank in range(world)
    ]
    (alone,) = over_ranks(shares[:1], classes)
    assert alone.count == len(split)
    for found in over_ranks(shares[1:], classes):
        assert_metrics_equal(found, alone)


# Batch statistics


@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda n: nn.BatchNorm2d(n, momentum=None), BatchNormAct2d])
def test_frozen_statistics_are_not_updated(make):
    """In the block, outputs are those of training and no buffer changes; after it, updates continue."""
    recorded, frozen = make(4), make(4)
    images = normal(8, 4, 3, 3) * 3 + 1
    before = buffers(frozen)
    with frozen_batch_statistics(batch_norms(frozen)):
        inside = frozen(images)
    assert_buffers_equal(frozen, before)
    assert torch.equal(inside, recorded(images))
    frozen(images)
    assert int(frozen.num_batches_tracked) == 1
    assert torch.equal(frozen.running_mean, recorded.running_mean)


def test_updates_continue_after_an_error():
    """A failing forward pass does not leave statistics frozen."""
    model = network()
    with pytest.raises(RuntimeError, match="stop"), frozen_batch_statistics(batch_norms(model)):
        raise RuntimeError("stop")
    model(normal(8, 3, 8, 8))
    assert int(model[1].num_batches_tracked) == 1


def test_freezing_accepts_a_generator():
    """The modules may come from any iterable."""
    model = network()
    before = buffers(model)
    with frozen_batch_statistics(m for m in batch_norms(model)):
        model(normal(8, 3, 8, 8))
    assert_buffers_equal(model, before)
    assert all(m.track_running_stats for m in batch_norms(model))


def test_only_layers_with_running_statistics_are_found():
    """Normalization without running statistics is not among them."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2))
    assert batch_norms(model) == [model[0]]


def test_statistics_are_restored_to_the_last_bit():
    """Whatever happens in the block, every buffer has its old value afterwards."""
    model = network()
    model(normal(8, 3, 8, 8))
    before = buffers(model)
    with restored_batch_statistics(model):
        model(normal(8, 3, 8, 8, seed=1))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert_buffers_equal(model, before)


def test_statistics_are_restored_after_an_error():
    """They are restored even if the block raises."""
    model = network()
    before = buffers(model)

    def fail():
        with restored_batch_statistics(model):
            model(normal(8, 3, 8, 8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert_buffers_equal(model, before)


def test_restoring_writes_in_place():
    """References to a buffer stay valid."""
    model = network()
    held = model[1].running_mean
    with restored_batch_statistics(model):
        model(normal(8, 3, 8, 8))
    assert model[1].running_mean is held
    assert bool((held == 0).all())


# With the engine


def test_evaluation_changes_no_statistic(engine):
    """In evaluation mode no buffer changes, and the counts are right."""
    engine.model.eval()
    before = buffers(engine.model)
    found = evaluate(engine.forward, image_batches(), 10, engine.sum)
    assert_buffers_equal(engine.model, before)
    assert found.count == 24
    logits = torch.cat([engine.model(images) for images, _ in image_batches()]).detach()
    assert_metrics_equal(found, reference(logits, torch.cat([labels for _, labels in image_batches()]), 10))


def test_reestimated_statistics_are_the_plain_average_over_the_batches(engine):
    """The first layer has the means of the batch means and of the unbiased batch variances."""
    reestimate_statistics(engine, image_batches())
    with torch.no_grad():
        maps = [engine.model[0](images).transpose(0, 1).flatten(1).double() for images, _ in image_batches()]
    norm = engine.model[1]
    mean = torch.stack([m.mean(1) for m in maps]).mean(0)
    variance = torch.stack([m.var(1, unbiased=True) for m in maps]).mean(0)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)
    assert int(norm.num_batches_tracked) == 3


def test_reestimation_does_not_depend_on_earlier_statistics(engine):
    """Any earlier statistics lead to the same bits; momenta are restored, and the model is in evaluation mode."""
    reestimate_statistics(engine, image_batches())
    expected = buffers(engine.model)
    with torch.no_grad():
        for module in batch_norms(engine.model):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(0))
            module.running_var.fill_(7)
    engine.model.train()
    reestimate_statistics(engine, image_batches())
    assert_buffers_equal(engine.model, expected)
    assert [m.momentum for m in batch_norms(engine.model)] == [0.1, 0.3]
    assert not any(m.training for m in engine.model.modules())


def test_reestimation_changes_no_weight(engine):
    """Weights stay the same, and no gradient is left."""
    before = [p.detach().clone() for p in engine.model.parameters()]
    reestimate_statistics(engine, image_batches())
    assert all(torch.equal(p, b) for p, b in zip(engine.model.parameters(), before, strict=True))
    assert all(p.grad is None or not p.grad.any() for p in engine.model.parameters())


def test_averaging_over_one_process_changes_nothing(engine):
    """With one process, averaging changes no bit."""
    before = buffers(engine.model)
    average_batch_statistics(engine)
    assert_buffers_equal(engine.model, before)


class NoStatistics:
    """Stands in for the engine, with a network without running statistics."""

    model = nn.Linear(2, 2)


def test_a_network_without_statistics_is_not_run():
    """No batch is drawn and no forward pass is made if there is nothing to estimate."""

    def batches():
        raise AssertionError("a batch was drawn")
        yield

    reestimate_statistics(NoStatistics(), batches())
