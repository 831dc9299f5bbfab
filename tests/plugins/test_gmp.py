"""Gradual magnitude pruning against its papers: schedule, updates, regrowth, exact end, a plain transcription."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from runs import folder, run
from torch import nn

from pruneboard.api import Progress
from pruneboard.gates import DrawClock, attach
from pruneboard.scores import budget, erk, importance, kept_of, still_kept, top_k, uniform
from pruneboard_gmp import GMP

ALLOCATIONS = ["uniform", "global", "erk", "lamp"]
SHAPES = [(8, 3, 3, 3), (40, 30), (10, 40)]
SIZES = [math.prod(shape) for shape in SHAPES]
TOTAL = 40
WINDOW = {"begin": 0.2, "end": 0.65, "interval": 0.1}
"""Of 40 steps: from 8 to 26, every 4, which does not divide the 18 between."""
UPDATES = [8, 12, 16, 20, 24, 26]


def layers_of(pruner, sizes=None, seed=0):
    """Attach a pruner to normal weights: of SHAPES, whose scales differ, or of flat sizes."""
    if sizes is None:
        net = {"conv": nn.Conv2d(3, 8, 3), "wide": nn.Linear(30, 40), "head": nn.Linear(40, 10)}
    else:
        net = {f"layer{i}": nn.Linear(n, 1) for i, n in enumerate(sizes)}
    layers = attach(pruner, list(net.items()), DrawClock(0), hits_target=True)
    rewrite(layers, seed)
    return layers


def rewrite(layers, seed):
    """Give every layer new weights, as far from the old ones as training could take them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, scale in zip(layers, itertools.cycle((1.0, 0.1, 3.0)), strict=False):
            layer.dense.copy_(torch.randn(layer.dense.shape, generator=generator) * scale)


def at(pruner, step, total=TOTAL) -> Progress:
    """Return the place of a hook call in a run of `total` steps, which hardens where the harness would."""
    harden = round(pruner.traits("prune").harden_at * total)
    return Progress(step, total, harden, "search" if step < harden else "finetune", DrawClock(0).for_hook, durable=None)


def drive(pruner, layers, total=TOTAL, start=0, moving=True):
    """Call the hooks as the loop does; yield (step, masks) after each, up to and with the hardening."""
    for step in range(start, at(pruner, 0, total).harden_step + 1):
        now = at(pruner, step, total)
        if moving:
            rewrite(layers, step)
        if step < now.harden_step:
            pruner.before_step(layers, now)
        else:
            pruner.harden(layers, now, lambda: pytest.fail("magnitudes select nothing"))
        yield step, [layer.gate.keep.clone() for layer in layers]


def counts(masks) -> list[int]:
    """Return the kept positions of each layer."""
    return [int(mask.sum()) for mask in masks]


# The schedule


@st.composite
def windows(draw):
    """Draw options of a schedule, extreme ones too."""
    begin, end = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    return {"begin": begin, "end": end, "interval": draw(st.floats(0, 1, exclude_min=True))}


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    sparsity=st.floats(0, 0.99),
    window=windows(),
    total=st.integers(1, 40),
    allocation=st.sampled_from(ALLOCATIONS),
    keep_pruned=st.booleans(),
)
@example(sizes=[50, 7], sparsity=0.9, window=WINDOW, total=TOTAL, allocation="uniform", keep_pruned=False)
@settings(deadline=None, max_examples=80)
def test_sparsity_only_rises_from_nothing_to_exactly_the_budget(
    sizes, sparsity, window, total, allocation, keep_pruned
):
    """All is kept up to `begin`, then the total only falls, and hardening leaves exactly k whatever the interval."""
    assume(kept_of(sum(sizes), sparsity) > 0)
    pruner = GMP(sparsity=sparsity, allocation=allocation, keep_pruned=keep_pruned, **window)
    layers = layers_of(pruner, sizes)
    begin = round(pruner.begin * total)
    kept = {step: sum(counts(masks)) for step, masks in drive(pruner, layers, total)}
    harden = max(kept)
    assert all(kept[step] == sum(sizes) for step in kept if step <= begin and step < harden)
    assert all(late <= early for early, late in itertools.pairwise(kept.values()))
    assert kept[harden] == budget(layers) == kept_of(sum(sizes), sparsity)


@given(
    n=st.integers(1, 10**9),
    sparsity=st.floats(0, 1, exclude_max=True),
    window=windows(),
    total=st.integers(1, 10**6),
    steps=st.lists(st.integers(0, 10**6), min_size=2, max_size=8),
)
@settings(deadline=None, max_examples=200)
def test_counts_of_the_schedule_are_monotone_at_any_size(n, sparsity, window, total, steps):
    """Of up to a billion weights, the scheduled count never rises by one; it is n at `begin` and k at the end."""
    pruner, k = GMP(sparsity=sparsity, **window), kept_of(n, sparsity)
    harden = at(pruner, 0, total).harden_step
    found = [still_kept(k, n, pruner.share(at(pruner, step, total))) for step in sorted(steps)]
    assert all(k <= late <= early <= n for early, late in itertools.pairwise(found))
    assert still_kept(k, n, pruner.share(at(pruner, harden, total))) == k
    begin = round(pruner.begin * total)
    assert begin == harden or still_kept(k, n, pruner.share(at(pruner, begin, total))) == n


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_every_update_follows_the_papers_formula(allocation):
    """s_t = s_f (1 - (1 - (t - t0) / (t1 - t0))^3): per layer where layers have counts, else over all together."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    layers, k = layers_of(pruner), kept_of(sum(SIZES), 0.9)
    final = {"uniform": uniform(SIZES, k), "erk": erk(SHAPES, k)}.get(allocation)
    for step, masks in drive(pruner, layers):
        if step not in UPDATES:
            continue
        found, sizes, ends = counts(masks), SIZES, final
        if final is None:
            found, sizes, ends = [sum(found)], [sum(SIZES)], [k]
        for kept, n, end in zip(found, sizes, ends, strict=True):
            zeros = (n - end) * (1 - (1 - (step - 8) / 18) ** 3)
            assert zeros - 1e-9 <= n - kept < zeros + 1


def test_the_defaults_are_the_published_cell():
    """Of Gale et al.'s 128,000 steps they are 40,000 to 76,000, every 2,000."""
    pruner = GMP(sparsity=0.9)
    due = [step for step in range(0, 128_001, 500) if pruner.due(at(pruner, step, 128_000))]
    assert due == list(range(40_000, 76_001, 2_000))
    assert pruner.allocation == "uniform"


@pytest.mark.parametrize(
    ("window", "total", "expected"),
    [
        ({"begin": 0.2, "end": 0.9, "interval": 0.45}, 8, [2, 6, 7]),  # 1.6, 7.2 and 3.6 steps
        ({"begin": 0.0, "end": 1.0, "interval": 1.0}, 8, [0, 8]),
        ({"begin": 0.5, "end": 0.8, "interval": 0.01}, 10, [5, 6, 7, 8]),
        ({"begin": 0.5, "end": 0.51, "interval": 0.5}, 10, [5]),
    ],
)
def test_times_are_rounded_to_steps(window, total, expected):
    """Begin, end and interval are the nearest whole steps, the interval at least one; the end is always an update."""
    pruner = GMP(sparsity=0.9, **window)
    assert [step for step in range(total + 1) if pruner.due(at(pruner, step, total))] == expected


@pytest.mark.parametrize(
    ("begin", "end", "every", "reached"), [(12_500, 36_000, 2_000, 0.99974), (8_000, 68_000, 8_000, 0.99970)]
)
def test_the_target_is_met_where_the_official_schedule_misses_it(begin, end, every, reached):
    """TensorFlow's last update, early if the interval does not divide the window, is one of ours but not the last."""
    total = 128_000
    pruner = GMP(sparsity=0.9, begin=begin / total, end=end / total, interval=every / total)
    last = begin + (end - begin) // every * every
    official = 1 - (1 - (last - begin) / (end - begin)) ** 3
    assert official == pytest.approx(reached, abs=5e-6)
    assert float(1 - pruner.share(at(pruner, last, total))) == pytest.approx(official, rel=1e-12)
    n, k = 25_500_000, 2_550_000
    assert still_kept(k, n, pruner.share(at(pruner, last, total))) > k + 5_000
    assert [step for step in range(last, total + 1, 500) if pruner.due(at(pruner, step, total))] == [last, end]
    assert still_kept(k, n, pruner.share(at(pruner, end, total))) == k


def test_the_target_is_met_where_strs_gmp_misses_it():
    """STR's GMP, epochs 20 to 79 of 100, ends at .8999958 for .9, 106 of 25.5 million weights short; ours does not."""
    pruner = GMP(sparsity=0.9, begin=0.2, end=0.8, interval=0.01)
    rate = 0.9 - 0.9 * (1 - (79 - 20) / (79 - 20 + 1)) ** 3
    assert rate == pytest.approx(0.8999958, abs=5e-8)
    n, k = 25_500_000, 2_550_000
    share = pruner.share(at(pruner, 79, 100))
    assert 0.9 * float(1 - share) == pytest.approx(rate, rel=1e-12)
    assert still_kept(k, n, share) - k == 106
    assert still_kept(k, n, pruner.share(at(pruner, 80, 100))) == k


def test_the_scheduled_sparsity_is_shown():
    """The diagnostic is s_t: 0 until `begin`, the budget's sparsity from the end on, at updates that of the masks."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    layers = layers_of(pruner)
    n, shown = sum(SIZES), {}
    for step, masks in drive(pruner, layers):
        shown[step] = pruner.diagnostics(layers, at(pruner, step))["scheduled_sparsity"]
        if step in UPDATES:
            assert shown[step] == pytest.approx(1 - sum(counts(masks)) / n, abs=len(SIZES) / n)
    assert shown[0] == shown[8] == 0
    after = pruner.diagnostics(layers, at(pruner, TOTAL))["scheduled_sparsity"]
    assert shown[26] == after == 1 - budget(layers) / n


# The masks


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_masks_stand_still_between_updates(allocation):
    """While weights move every step, masks change at the updates only, the last of which is the hardening."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    before, changed = [torch.ones(shape) for shape in SHAPES], []
    for step, masks in drive(pruner, layers_of(pruner)):
        if any(not torch.equal(a, b) for a, b in zip(before, masks, strict=True)):
            changed.append(step)
        before = masks
    assert changed == UPDATES[1:]  # at `begin` itself the schedule still keeps everything


def test_nothing_happens_after_hardening():
    """Whatever the weights become, no later step is an update."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    assert not any(pruner.due(at(pruner, step)) for step in range(27, TOTAL + 1))


def test_pruned_weights_are_zero_in_the_forward_pass():
    """A layer computes with w * mask, all the while, and the stored weights keep every bit."""
    pruner = GMP(sparsity=0.9, **WINDOW)
    net = nn.Linear(30, 40)
    (layer,) = layers = attach(pruner, [("net", net)], DrawClock(0), hits_target=True)
    stored = layer.dense.detach().clone()
    for _, (mask,) in drive(pruner, layers, moving=False):
        assert torch.equal(net.weight, stored * mask)
        assert not net.weight[mask == 0].any()
        assert torch.equal(net(torch.eye(30)), (stored * mask).t() + net.bias)
    assert torch.equal(layer.dense, stored)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_hardening_keeps_the_best_of_the_stored_weights(allocation):
    """The final mask has the allocation's counts, and is the ranking of the weights as they are then."""
    pruner = GMP(sparsity=0.9, allocation=allocation, **WINDOW)
    layers, k = layers_of(pruner), kept_of(sum(SIZES), 0.9)
    *_, (_, masks) = drive(pruner, layers)
    scores = importance([layer.dense for layer in layers], allocation)
    if allocation in ("global", "lamp"):
        expected = top_k(scores, k)
    else:
        keep = uniform(SIZES, k) if allocation == "uniform" else erk(SHAPES, k)
        expected = [top_k([score], n)[0] for score, n in zip(scores, keep, strict=True)]
    assert all(torch.equal(mask.bool(), best) for mask, best in zip(masks, expected, strict=True))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("keep_pruned", [False, True])
def test_a_pruned_weight_comes_back_unless_forbidden(allocation, keep_pruned):
    """With weights that move, masks recomputed from the stored ones bring some back; `keep_pruned` brings none."""
    pruner = GMP(sparsity=0.9, allocation=allocation, keep_pruned=keep_pruned, **WINDOW)
    history = [masks for _, masks in drive(pruner, layers_of(pruner))]
    returned = [
        int(((old == 0) & (new == 1)).sum())
        for early, late in itertools.pairwise(history)
        for old, new in zip(early, late, strict=True)
    ]
    assert (sum(returned) == 0) == keep_pruned
    assert sum(counts(history[-1])) == kept_of(sum(SIZES), 0.9)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_kept_zeros_rank_above_what_must_not_come_back(allocation):
    """Where all kept weights become 0 and all pruned ones huge, `keep_pruned` still takes from the kept."""
    pruner = GMP(sparsity=0.9, allocation=allocation, keep_pruned=True, **WINDOW)
    layers = layers_of(pruner)
    kept = {step: [mask.bool() for mask in masks] for step, masks in drive(pruner, layers, moving=False)}
    for layer, mask, final in zip(layers, kept[20], kept[26], strict=True):
        assert bool((mask >= final).all())
        layer.gate.set(mask)
        with torch.no_grad():
            layer.dense.copy_(torch.where(mask, 0.0, 1e6))
    pruner.harden(layers, at(pruner, 26), lambda: 0.0)
    assert sum(counts([layer.gate.keep for layer in layers])) == budget(layers)
    assert all(bool((layer.gate.keep <= mask).all()) for layer, mask in zip(layers, kept[20], strict=True))


def test_lamp_forgets_the_weights_that_never_come_back():
    """Under `keep_pruned`, however large the stored values of pruned weights, the LAMP scores of the others stay."""
    pruner = GMP(sparsity=0.9, allocation="lamp", keep_pruned=True)
    layers = layers_of(pruner)
    for layer in layers:
        layer.gate.set(layer.dense > 0)
    before = pruner.scores(layers)
    with torch.no_grad():
        for layer in layers:
            layer.dense[layer.gate.keep == 0] *= 1000
    assert all(torch.equal(a, b) for a, b in zip(before, pruner.scores(layers), strict=True))


@pytest.mark.parametrize("keep_pruned", [False, True])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_at_sparsity_zero_the_mask_is_all_ones_at_every_step(allocation, keep_pruned):
    """No off-by-one anywhere on the ramp."""
    pruner = GMP(sparsity=0.0, allocation=allocation, keep_pruned=keep_pruned, **WINDOW)
    assert all(counts(masks) == SIZES for _, masks in drive(pruner, layers_of(pruner)))


@pytest.mark.parametrize("keep_pruned", [False, True])
@pytest.mark.parametrize("cut", [7, 8, 13, 16, 25])
def test_a_resumed_run_needs_the_gates_only(cut, keep_pruned):
    """Fresh objects that load the masks of a step go on to the masks of the uninterrupted run."""
    options = {"sparsity": 0.9, "keep_pruned": keep_pruned, **WINDOW}
    whole = dict(drive(GMP(**options), layers_of(GMP(**options))))
    resumed = layers_of(GMP(**options))
    for layer, keep in zip(resumed, whole[cut - 1], strict=True):
        layer.gate.load_state_dict({"keep": keep})
    for step, masks in drive(GMP(**options), resumed, start=cut):
        assert all(torch.equal(a, b) for a, b in zip(masks, whole[step], strict=True))


# An independent transcription


class Reference:
    """Zhu and Gupta in plain PyTorch: one threshold per layer at s_t, w * (|w| > threshold), SGD written out."""

    def __init__(self, weights, sparsity, begin, end):
        self.weights = [weight.clone().requires_grad_() for weight in weights]
        self.masks = [torch.ones_like(weight) for weight in weights]
        self.velocity = [torch.zeros_like(weight) for weight in weights]
        self.sparsity, self.begin, self.end = sparsity, begin, end

    def update(self, t):
        """Recompute the masks at step t."""
        s_t = self.sparsity + (0 - self.sparsity) * (1 - (t - self.begin) / (self.end - self.begin)) ** 3
        for i, weight in enumerate(self.weights):
            magnitudes = weight.detach().abs()
            zeros = math.ceil(round(s_t * weight.numel(), 6))
            threshold = magnitudes.flatten().sort().values[zeros - 1] if zeros else -1.0
            self.masks[i] = (magnitudes > threshold).double()

    def effective(self):
        """Return w * mask, in the graph."""
        return [weight * mask for weight, mask in zip(self.weights, self.masks, strict=True)]

    def step(self, gradients, lr, momentum, decay):
        """Take one step of SGD with momentum, decay on the stored weights."""
        with torch.no_grad():
            for weight, velocity, gradient in zip(self.weights, self.velocity, gradients, strict=True):
                velocity.mul_(momentum).add_(gradient + decay * weight)
                weight.sub_(lr * velocity)


def test_masks_values_and_gradients_equal_a_plain_transcription():
    """Over 60 steps of real training in float64, ours and the reference agree to 1e-6, and weights did come back."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32, bias=False), nn.Tanh(), nn.Linear(32, 8, bias=False)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 3)
    images = torch.randn(64, 20, dtype=torch.float64, generator=generator)
    labels = torch.randint(8, (64,), generator=generator)
    reference = Reference([net[0].weight.detach(), net[2].weight.detach()], 0.75, begin=9, end=46)
    pruner = GMP(sparsity=0.75, begin=0.15, end=46 / 60, interval=0.05)
    layers = attach(pruner, [("0", net[0]), ("2", net[2])], DrawClock(0), hits_target=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.02)
    returned = 0
    for t in range(60):
        if t <= 46:
            (pruner.before_step if t < 46 else lambda *a: pruner.harden(*a, lambda: 0.0))(layers, at(pruner, t, 60))
        if t in [*range(9, 46, 3), 46]:
            before = reference.masks.copy()
            reference.update(t)
            returned += sum(int(((a == 0) & (b == 1)).sum()) for a, b in zip(before, reference.masks, strict=True))
        first, second = reference.effective()
        theirs = nn.functional.cross_entropy(torch.tanh(images @ first.t()) @ second.t(), labels)
        gradients = torch.autograd.grad(theirs, reference.weights)
        ours = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        ours.backward()
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
        for layer, module, mask, value, gradient in zip(
            layers, (net[0], net[2]), reference.masks, (first, second), gradients, strict=True
        ):
            assert torch.equal(layer.gate.keep, mask)
            torch.testing.assert_close(module.weight, value, rtol=0, atol=1e-6)
            torch.testing.assert_close(layer.dense.grad, gradient, rtol=0, atol=1e-6)
            assert not layer.dense.grad[mask == 0].any()
        optimizer.step()
        reference.step(gradients, lr=0.3, momentum=0.9, decay=0.02)
    assert returned > 0
    assert counts([layer.gate.keep for layer in layers]) == [160, 64]


# Options and a real run


def test_it_hardens_where_the_schedule_ends():
    """The declared fraction is `end`; one pass per step, the exact target, no control."""
    traits = GMP(sparsity=0.9, end=0.7).traits("prune")
    assert (traits.harden_at, traits.hits_target, traits.forward_passes, traits.control) == (0.7, True, 1, None)
    assert GMP.tracks == {"prune"}


@pytest.mark.parametrize("bad", [{"begin": -0.1}, {"begin": 0.6}, {"begin": 0.59375}, {"end": 1.1}, {"end": 0.2}])
def test_a_window_that_is_none_is_refused(bad):
    """Pruning begins in the budget, before it ends; the message holds both values."""
    begin, end = bad.get("begin", 0.3125), bad.get("end", 0.59375)
    with pytest.raises(ValueError, match=f"0 <= begin < end <= 1; found {begin}, {end}"):
        GMP(sparsity=0.9, **bad)


@pytest.mark.parametrize("interval", [0.0, -0.5, 1.5, math.nan])
def test_an_interval_that_is_none_is_refused(interval):
    """An interval is a positive share of the budget."""
    with pytest.raises(ValueError, match=f"in \\(0, 1\\]; found {interval}"):
        GMP(sparsity=0.9, interval=interval)


def test_a_real_run_is_done_with_the_exact_count(tmp_path):
    """Eight real steps end as a finished row of exactly n - round(.9 n), and the log shows the schedule."""
    made = run(tmp_path, "gmp", 0.9, options={"begin": 0.25, "end": 0.75})
    assert made["status"] == "done"
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"] - round(0.9 * made["sparsity"]["prunable"])
    assert made["budget"]["harden_step"] == 6
    rows = [json.loads(line) for line in (folder(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    first, last = (row["diagnostics"]["scheduled_sparsity"] for row in rows)
    assert first == pytest.approx(0.9 * (1 - (1 / 2) ** 3), abs=1e-4)  # step 4 of 2 to 6
    assert last == pytest.approx(0.9, abs=1e-4)
    assert rows[0]["sparsity"] == pytest.approx(0.9 * (1 - (3 / 4) ** 3), abs=1e-3)  # the update before step 3
