"""Large layers on a CPU: ProbMask's formulas in blocks, with numpy's draws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probmask_cases import generator

from pruneboard_probmask import bulk
from pruneboard_probmask.gate import GATHER_BELOW_LARGE, ProbabilityGate, relaxed

LARGE = bulk.LARGE + 4321
"""More than one block, and not a multiple of the block size."""


def inputs(seed=0):
    """Weights, undecided probabilities and an upstream gradient of a large layer."""
    weight, upstream = (torch.randn(LARGE, generator=generator(seed + n)) for n in range(2))
    s = torch.rand(LARGE, generator=generator(seed + 2)).mul(0.98).add(0.01)
    return weight.requires_grad_(), s.requires_grad_(), upstream


def draws(seed=0):
    """The random numbers that a large layer draws from a generator with this seed."""
    return bulk.backend(generator(seed), torch.empty(LARGE)).uniform(torch.empty(LARGE)).clone()


def test_draws_are_uniform():
    """Draws for a large layer are U(0, 1) by a Kolmogorov-Smirnov test, and never 1."""
    found = draws()
    assert scipy.stats.kstest(found.numpy(), "uniform").pvalue > 0.01
    assert float(found.min()) >= 0
    assert float(found.max()) < 1


def test_draws_depend_on_the_generator_only():
    """Equal seeds give equal draws; another seed, or a second use of one generator, gives uncorrelated ones."""
    assert torch.equal(draws(1), draws(1))
    shared = generator(1)
    first, second = (bulk.backend(shared, torch.empty(LARGE)).uniform(torch.empty(LARGE)).clone() for _ in range(2))
    for other in (second, draws(2)):
        assert abs(np.corrcoef(first.numpy(), other.numpy())[0, 1]) < 4 / LARGE**0.5


@pytest.mark.parametrize("size", [1 << 12, (1 << 14) + 1, 1 << 20])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_results_do_not_depend_on_the_block_size(monkeypatch, size, share):
    """Masks and gradients of a large layer are equal bit for bit for every block size."""
    weight, s, upstream = inputs()
    undecided = None if share == 1 else torch.arange(0, LARGE, round(1 / share))

    def results():
        effective = relaxed(weight, s, 1.7, generator(5), undecided)
        return [effective.detach(), *torch.autograd.grad(effective, (weight, s), upstream)]

    expected = results()
    monkeypatch.setattr(bulk, "BLOCK", size)
    assert all(map(torch.equal, results(), expected))


def test_large_layers_follow_the_papers_formula():
    """Mask and gradients equal autograd of sigmoid(T (logit s + logit u)) in float64, on the same draws."""
    weight, s, upstream = inputs()
    ours = relaxed(weight, s, 3.0, generator(4))
    u = draws(4).clamp_min(2.0**-25).double()
    w64, s64 = (tensor.detach().double().requires_grad_() for tensor in (weight, s))
    reference = w64 * torch.sigmoid(3.0 * (torch.logit(s64) + torch.logit(u)))
    torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-7)
    found = torch.autograd.grad(ours, (weight, s), upstream)
    expected = torch.autograd.grad(reference, (w64, s64), upstream.double())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, rtol=1e-4, atol=1e-4
        )  # of m (1 - m), over a variance of .01 or more


def test_gathered_probabilities_follow_the_same_formula():
    """Gathered entries follow the formula on the draws in order; all other entries have m = s."""
    weight, s, upstream = inputs()
    few = torch.arange(3, LARGE, 5)
    decided = torch.ones(LARGE, dtype=torch.bool)
    decided[few] = False
    with torch.no_grad():
        s[decided] = (torch.arange(int(decided.sum())) % 2).float()
    effective = relaxed(weight, s, 2.0, generator(4), few)
    by_weight, by_s = torch.autograd.grad(effective, (weight, s), upstream)
    assert torch.equal(effective[decided], (weight * s)[decided])
    assert torch.equal(by_weight[decided], (upstream * s)[decided])
    assert not by_s[decided].any()
    u = draws(4)[: len(few)].clamp_min(2.0**-25).double()
    at = s.detach()[few].double()
    m = torch.sigmoid(2.0 * (torch.logit(at) + torch.logit(u)))
    torch.testing.assert_close(by_weight[few].double(), upstream[few].double() * m, rtol=1e-4, atol=1e-7)
    slope = 2.0 * m * (1 - m) / (at * (1 - at)) * weight.detach()[few].double() * upstream[few].double()
    torch.testing.assert_close(
        by_s[few].double(), slope, rtol=1e-4, atol=1e-4
    )  # of m (1 - m), over a variance of .01 or more


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_a_frozen_weight_gets_no_gradient(share):
    """A frozen weight gets no gradient, and the gradient of the probabilities is the same as with a trained one."""
    weight, s, upstream = inputs()
    undecided = None if share == 1 else torch.arange(0, LARGE, round(1 / share))
    expected = torch.autograd.grad(relaxed(weight, s, 1.7, generator(5), undecided), (weight, s), upstream)[1]
    frozen = relaxed(weight.detach(), s, 1.7, generator(5), undecided)
    assert torch.equal(torch.autograd.grad(frozen, s, upstream)[0], expected)


def training_gate():
    """A gate in training mode with undecided probabilities, and its large weight."""
    weight = torch.randn(512, 300, generator=generator())
    gate = ProbabilityGate(weight, learn=True)
    gate.probability.data.fill_(0.5)
    gate.refresh()
    seeds = iter(range(100))
    gate._source = lambda: generator(next(seeds))
    return gate, weight.requires_grad_()


def test_passes_share_a_workspace_that_is_not_saved():
    """Every pass of a large layer uses the same memory, which neither checkpoints nor the folded weight contain."""
    gate, weight = training_gate()
    first = gate(weight)
    kept = first.detach().clone()
    first.sum().backward()
    second = gate(weight)
    second.sum().backward()
    assert second.data_ptr() == first.data_ptr()
    assert not torch.equal(second, kept)
    assert set(gate.state_dict()) == {"probability"}
    torch.testing.assert_close(gate.folded(weight), weight * 0.5)


def test_backward_after_the_workspace_was_reused_is_an_error():
    """Autograd raises for a pass whose memory a later pass has overwritten, instead of using wrong values."""
    gate, weight = training_gate()
    first = (gate(weight) ** 2).sum()
    gate(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 100, bulk.BLOCK, bulk.BLOCK + 7]))
def test_interior_indices_are_those_strictly_between_0_and_1(seed, share, n):
    """`interior_indices` lists where 0 < s < 1, or returns None if there are as many as the share or more."""
    values = torch.rand(n, generator=generator(seed))
    place = torch.rand(n, generator=generator(seed + 1))
    values = torch.where(place < share, values, place.round())
    expected = torch.nonzero((values > 0) & (values < 1)).flatten()
    found = bulk.interior_indices(values, max_share=GATHER_BELOW_LARGE)
    assert (found is None) == (len(expected) >= GATHER_BELOW_LARGE * n)
    assert found is None or torch.equal(found, expected)
