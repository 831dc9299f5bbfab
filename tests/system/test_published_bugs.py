"""Known bugs of published pruning code: each published rule on a case that it gets wrong, compared with ours."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import safetensors.torch
import timm
import torch

from pruneboard import registry
from pruneboard.api import Progress
from pruneboard.data import Split
from pruneboard.data.splits import Pixels
from pruneboard.experiment import lifecycle, listeners
from pruneboard.experiment.audit import count_layers, sparsity_block
from pruneboard.experiment.prepare import prepare
from pruneboard.models import prunable_layers
from pruneboard.records import runfolder
from pruneboard.scores import budget, kept_of, top_k
from pruneboard.training.gates import DrawKey, attach, fold
from pruneboard_probmask import sample
from runs import folder, run, tiny
from writer import Writer


def generator(seed=0):
    """Return a CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def hardened(method, sparsity, net, **options):
    """Return the layers of `net`, pruned by a built-in method without training."""
    pruner = registry.build(registry.find(method), sparsity, options)
    draw_key = DrawKey(0)
    layers = attach(pruner, prunable_layers(net), draw_key, hits_target=True)
    pruner.harden(layers, Progress(10, 10, 10, "finetune", draw_key.hook_generator, Writer()), lambda: 0.5)
    return layers


# Off by one


def keeps_one_more(scores, removed):
    """GraSP: removes the highest of its scores; `<=` keeps the threshold element."""
    return int((scores <= scores.sort(descending=True).values[removed - 1]).sum())


def prunes_one_more(scores, removed):
    """open_lth: the threshold is the first element that should stay, and a strict `>` drops it."""
    return int((scores > scores.sort().values[removed]).sum())


def floors_a_product(scores, removed):
    """hidden-networks: zeroes int((1 - k) n) positions; rounding may put the product below the count."""
    kept_share = 1 - removed / len(scores)
    return len(scores) - int((1 - kept_share) * len(scores))


def prunes_all_ties(scores, removed):
    """Synaptic-Flow: prunes everything at or below the threshold, including all ties."""
    return int((scores > scores.kthvalue(removed).values).sum())


def keeps_all_ties(scores, removed):
    """LAMP's code: keeps everything at or above the threshold, including all ties."""
    return int((scores >= scores.sort(descending=True).values[len(scores) - removed - 1]).sum())


@pytest.mark.parametrize(
    ("rule", "levels", "kept"),
    [
        (keeps_one_more, None, 91),
        (prunes_one_more, None, 89),
        (floors_a_product, None, 91),
        (prunes_all_ties, 1, 0),
        (prunes_all_ties, 3, 66),
        (keeps_all_ties, 1, 100),
    ],
)
def test_published_selections_miss_the_count_and_ours_does_not(rule, levels, kept):
    """With 10 of 100 to remove, five published rules keep another number than 90; top_k keeps 90."""
    scores = torch.randperm(100, generator=generator()).float()
    if levels:
        scores = scores.remainder(levels)
    assert rule(scores, 10) == kept != 90
    assert int(top_k([scores], kept_of(100, 0.1))[0].sum()) == 90


def test_a_floored_product_is_wrong_in_one_case_of_six():
    """Of 204 whole counts at two-digit densities int((1 - k) n) misses 34, and `kept_of` none."""
    cases = [(n, percent) for n in (100, 1000, 9408, 36_864) for percent in range(1, 100) if n * percent % 100 == 0]
    exact = [n - n * percent // 100 for n, percent in cases]
    floored = [int((1 - percent / 100) * n) for n, percent in cases]
    ours = [n - kept_of(n, 1 - percent / 100) for n, percent in cases]
    assert len(cases) == 204
    assert sum(a != b for a, b in zip(floored, exact, strict=True)) == 34
    assert ours == exact


# Layer collapse


def narrow_resnet18():
    """Return ResNet-18 at a quarter of its width with PyTorch's default weights, which shrink with the fan-in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet18", num_classes=10, channels=(16, 32, 64, 128), stem_width=16)
        for _, module in prunable_layers(net):
            module.reset_parameters()
    return net


def collapsed(allocation, sparsity):
    """Return the layers that a record names as collapsed, after magnitude pruning at initialization."""
    net = narrow_resnet18()
    layers = hardened("magnitude", sparsity, net, allocation=allocation)
    counts = count_layers(layers, fold(net, layers))
    assert sum(c.kept for c in counts) == budget(layers)
    return sparsity_block(counts, sparsity, budget(layers), 1)["collapsed"]


def test_global_magnitude_at_initialization_collapses_layers_and_the_record_names_them():
    """At .944 (chance level in SynFlow's data) the widest convolutions are emptied; under LAMP none ever is."""
    assert collapsed("global", 0.944) == ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    assert collapsed("lamp", 0.944) == collapsed("lamp", 0.9999) == []


# Tensors that must not change


@pytest.mark.parametrize("method", ["magnitude", "random", "probmask"])
def test_only_weights_are_pruned(method):
    """SNIP's code prunes biases too: here all but the prunable weights keep every bit, at any sparsity."""

    def plain():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return timm.create_model("test_resnet", num_classes=10)

    net, before = plain(), plain().state_dict()
    with torch.no_grad():  # biases start at 0, where a pruned one would not show
        for name, tensor in net.named_parameters():
            if name.endswith("bias"):
                tensor.copy_(before[name].uniform_(0.1, 1, generator=generator()))
    layers = hardened(method, 0.99, net)
    after, pruned = fold(net, layers), {f"{layer.name}.weight" for layer in layers}
    assert any(name.endswith("bias") and bool(before[name].all()) for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before if name not in pruned)
    for name in pruned:  # what is kept is the scored weight, not a new draw
        kept = after[name] != 0
        assert torch.equal(after[name][kept], before[name][kept])


# Sparsity by chance


def test_a_drawn_mask_has_a_random_count_and_ours_an_exact_one():
    """ProbMask's official mask m ~ Bern(s) misses K by tens of weights, differently in each draw; ours never does."""
    p = torch.full((10_000,), 0.1)
    drawn = [int((torch.rand(10_000, generator=generator(seed)) < p).sum()) for seed in range(20)]
    repaired = [int(sample([p], 1000, [generator(seed)])[0].sum()) for seed in range(20)]
    assert max(drawn) - min(drawn) > 30
    assert set(repaired) == {1000}


# Test images


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Pixels):
    """Images that note when they are read."""

    seen: list[str] = dataclasses.field(default_factory=list)

    def on(self, device):
        self.seen.append("test images")
        return super().on(device)


class PhaseLog(listeners.NullListener):
    """Notes the phases of a run in the list in which the images note when they are read."""

    def __init__(self, seen):
        self.seen = seen

    def on_phase(self, message, done=0, total=0):
        self.seen.append(message)


def noise_like(images):
    """Return random pixels of the same shape."""
    return torch.zeros_like(images).random_(256, generator=generator())


def executed(results, test_images, method, **options):
    """Return the record of a run on these test images, and what happened, in order."""
    job, dataset = prepare(tiny(results, method, options=options))
    runfolder.begin(job.folder)
    watched = Watched(test_images(dataset.test.images.stored))
    split = Split(watched, dataset.test.rows, dataset.test.labels)
    record = lifecycle.execute(job, PhaseLog(watched.seen), dataclasses.replace(dataset, test=split))
    return record, watched.seen


@pytest.mark.parametrize(("method", "options"), [("probmask", {"samples": 2}), ("magnitude", {})])
def test_test_images_affect_only_the_test_score(tmp_path, method, options):
    """ProbMask's official loop uses them in batch statistics, and picks the best epoch on them.

    Here they are read once, after the last phase has begun. With noise in their place the weights, the statistics
    and every other number of the record are the same, and only the test block differs.
    """
    plain, seen = executed(tmp_path / "a", torch.clone, method, **options)
    noise, _ = executed(tmp_path / "b", noise_like, method, **options)
    assert seen[-2:] == ["evaluating the folded model on the test split", "test images"]
    assert seen.count("test images") == 1
    assert noise["weights_sha256"] == plain["weights_sha256"]
    assert noise["metrics"]["test"] != plain["metrics"]["test"]
    for block in ("validation", "best_validation"):
        assert noise["metrics"][block] == plain["metrics"][block]


# Scores of other weights

SCORED = """
    from dataclasses import dataclass
    from pruneboard.api import ScoringPruner

    SEEN = []

    @dataclass(frozen=True, kw_only=True)
    class Thing(ScoringPruner):
        '''Scores by the inverse magnitude, and remembers what it was given.'''

        def score(self, view, batches):
            SEEN.extend((layer.name, layer.dense.detach().clone()) for layer in view.layers)
            return [1 / (1 + weight.abs()) for _, weight in SEEN]
"""


def test_the_weights_that_are_scored_are_those_that_are_trained(site, tmp_path):
    """GraSP's code scores other linear weights than it prunes, and SNIP's redraws weights after pruning.

    Here, at a learning rate of 0, the saved weights are the scored ones, bit for bit, at the highest scores only.
    """
    module = site.add("scored", SCORED).partition(":")[0]
    run(tmp_path, "thing", 0.9, overrides={"lr": 0.0, "epochs": 1})
    seen = dict(sys.modules[module].SEEN)
    saved = safetensors.torch.load_file(folder(tmp_path) / "model.safetensors")
    keep = kept_of(sum(weight.numel() for weight in seen.values()), 0.9)
    masks = top_k([1 / (1 + weight.abs()) for weight in seen.values()], keep)
    for (name, weight), mask in zip(seen.items(), masks, strict=True):
        assert torch.equal(saved[f"{name}.weight"], weight * mask)
