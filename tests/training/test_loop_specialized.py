"""The specialized pruner base classes, each through a small third-party plugin and a real run."""

from __future__ import annotations

import sys

import pytest
import torch

from runs import run

SALIENCY = """
    from dataclasses import dataclass
    import torch
    from pruneboard.api import ScoringPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(ScoringPruner):
        '''SNIP's score, |dL/dw * w|, on one batch.'''

        def score(self, view, batches):
            weights = [layer.dense.detach().clone().requires_grad_() for layer in view.layers]
            gradients = torch.autograd.grad(view.loss(next(batches), weights), weights)
            return [(w * g).abs().detach() for w, g in zip(weights, gradients)]
"""


REGROW = """
    from dataclasses import dataclass
    from pruneboard.api import DenseGradientPruner
    from pruneboard.scores import set_masks, top_k_per_layer

    SEEN = []

    @dataclass(frozen=True, kw_only=True)
    class Thing(DenseGradientPruner):
        '''Keep the largest weights, then let the largest dense gradients choose every second step.'''

        def before_step(self, layers, at):
            if at.step == 0:
                set_masks(layers, top_k_per_layer([l.dense.abs() for l in layers], [l.keep for l in layers]))

        def wants_gradients(self, at):
            return at.step in (1, 3, 5)

        def update(self, layers, dense_gradients, at):
            SEEN.append((at.step, [g.clone() for g in dense_gradients], [l.gate.keep.clone() for l in layers]))
            new = top_k_per_layer([g.abs() for g in dense_gradients], [layer.keep for layer in layers])
            for layer, keep in zip(layers, new):
                grown = keep & (layer.gate.keep == 0)
                at.assign(layer.dense, layer.dense.masked_fill(grown, 0.01))
                at.reset_optimizer_state(layer.dense, grown)
            set_masks(layers, new)
"""


def test_scoring_pruner_prunes_before_the_first_step(site, tmp_path):
    """Scores become the exact top-k mask, the scored images count as training cost, and statistics do not change."""
    site.add("saliency", SALIENCY)
    made = run(tmp_path, "thing", 0.9)
    sparsity, cost = made["sparsity"], made["cost"]
    assert sparsity["kept"] == sparsity["prunable"] - round(0.9 * sparsity["prunable"])
    assert cost["train_macs"] == 3 * cost["macs_dense"] * (32 * 8 + 32)
    assert made["method"]["distribution"] == "saliency"


def test_dense_gradients_reach_pruned_weights(site, tmp_path):
    """`update` is called in the steps that it asks for, with gradients that are not zero where the mask is."""
    module = site.add("regrow", REGROW).partition(":")[0]
    made = run(tmp_path, "thing", 0.9)
    seen = sys.modules[module].SEEN
    assert [step for step, _, _ in seen] == [1, 3, 5]
    for _, gradients, masks in seen:
        assert any(bool((g[mask == 0] != 0).any()) for g, mask in zip(gradients, masks, strict=True))
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"] - round(0.9 * made["sparsity"]["prunable"])


@pytest.mark.parametrize("zero", [1, 2])
def test_dense_gradients_are_the_same_at_every_stage(site, tmp_path, zero):
    """ZeRO 1 and 2 give `update` the gradients of stage 0, and keep what it writes and resets."""
    module = site.add("regrow", REGROW).partition(":")[0]
    first = run(tmp_path / "a", "thing", 0.9)
    plain = list(sys.modules[module].SEEN)
    sys.modules[module].SEEN.clear()
    second = run(tmp_path / "b", "thing", 0.9, zero=zero)
    for (_, a, _), (_, b, _) in zip(plain[:2], sys.modules[module].SEEN[:2], strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)
    assert first["sparsity"]["kept"] == second["sparsity"]["kept"]
