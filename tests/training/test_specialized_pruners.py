"""The two second types of pruner, each through one small stranger's plugin and a real run."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from pruneboard.api import Mask, MaskPruner
from pruneboard.errors import RunError
from pruneboard.experiment import lifecycle
from pruneboard.training import gates
from pruneboard.training.scoring import ScoringView, dense_gradients
from runs import run, tiny

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
    """A score per weight becomes the exact top-k mask, its batch is charged, and statistics stay untouched."""
    site.add("saliency", SALIENCY)
    made = run(tmp_path, "thing", 0.9)
    sparsity, cost = made["sparsity"], made["cost"]
    assert sparsity["kept"] == sparsity["prunable"] - round(0.9 * sparsity["prunable"])
    assert cost["train_macs"] == 3 * cost["macs_dense"] * (32 * 8 + 32)
    assert made["method"]["distribution"] == "saliency"


def test_dense_gradients_reach_pruned_weights(site, tmp_path):
    """`update` is called in the steps it asks for, with gradients that are not zero where the mask is."""
    module = site.add("regrow", REGROW).partition(":")[0]
    made = run(tmp_path, "thing", 0.9)
    seen = sys.modules[module].SEEN
    assert [step for step, _, _ in seen] == [1, 3, 5]
    for _, gradients, masks in seen:
        assert any(bool((g[mask == 0] != 0).any()) for g, mask in zip(gradients, masks, strict=True))
    assert made["sparsity"]["kept"] == made["sparsity"]["prunable"] - round(0.9 * made["sparsity"]["prunable"])


@pytest.mark.parametrize("zero", [1, 2])
def test_dense_gradients_are_the_same_at_every_stage(site, tmp_path, zero):
    """ZeRO 1 and 2 give `update` the gradients of stage 0, and its writes and resets survive there too."""
    module = site.add("regrow", REGROW).partition(":")[0]
    first = run(tmp_path / "a", "thing", 0.9)
    plain = list(sys.modules[module].SEEN)
    sys.modules[module].SEEN.clear()
    second = run(tmp_path / "b", "thing", 0.9, zero=zero)
    for (_, a, _), (_, b, _) in zip(plain[:2], sys.modules[module].SEEN[:2], strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)
    assert first["sparsity"]["kept"] == second["sparsity"]["kept"]


def test_dense_gradient_is_the_gradient_of_the_effective_weight():
    """Summed over two backward passes, it equals autograd with respect to `weight * keep` itself."""
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
    """Logits under other weights leave weights, statistics, training mode and gradients as they were."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    layers = gates.attach(_Keep(sparsity=0.0), [("0", net[0]), ("4", net[4])], gates.DrawKey(0), hits_target=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    view = ScoringView(net.eval(), layers, 8, 0.0)
    images = torch.randn(5, 3, 8, 8)
    doubled = [2 * layer.dense.detach() for layer in layers]
    assert not torch.equal(view.logits(images, doubled), view.logits(images))
    assert view.logits(images, training=False, rest=torch.abs).shape == (5, 10)
    assert view.images == 15
    assert not net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


class _Keep(MaskPruner):
    """Prunes nothing."""


FAULTS = {
    "a hook that raises": ("def before_step(self, layers, at): raise KeyError('mine')", "before_step: KeyError"),
    "a mask that moves late": (
        "def before_step(self, layers, at): layers[0].gate.keep.fill_(1 if at.step else 0)",
        "positions are kept where the budget is",
    ),
    "a false count": ("def before_step(self, layers, at): layers[0].gate.keep.zero_()", "positions are kept"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plugins_fault_is_a_failed_row(site, tmp_path, fault):
    """A plugin that raises or misses its budget ends in a RunError naming it, and a record with the reason."""
    body, expected = FAULTS[fault]
    source = f"""
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        {body}
    """
    site.add("faulty", source)
    with pytest.raises(RunError, match=expected):
        lifecycle.run(tiny(tmp_path, "thing"))
    (file,) = tmp_path.rglob("run.json")
    assert json.loads(file.read_text())["status"] in {"failed", "invalid"}


def test_a_gate_that_changes_after_hardening_is_caught(site, tmp_path):
    """A gate with state that moves in training mode breaks the promise of `harden`, and the run fails."""
    source = """
    from dataclasses import dataclass
    import torch
    from pruneboard.api import Gate, Pruner, Traits

    class Moving(Gate):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, weight):
            if self.training:
                self.calls += 1
            return weight

        def kept(self, weight):
            return torch.ones_like(weight, dtype=torch.bool)

    @dataclass(frozen=True, kw_only=True)
    class Thing(Pruner):
        def gate(self, weight):
            return Moving()

        def traits(self, track):
            return Traits(harden_at=0.5)
    """
    site.add("moving", source)
    with pytest.raises(RunError, match="changed after hardening"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))


def test_validation_is_lent_to_harden_only(site, tmp_path):
    """A method that keeps `validate` cannot select by it once `harden` has returned."""
    source = """
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner, Traits

    KEPT = []

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def traits(self, track):
            return Traits(harden_at=0.5)

        def harden(self, layers, at, validate):
            assert 0 <= validate() <= 1
            KEPT.append(validate)

        def diagnostics(self, layers, at):
            return {"top1": KEPT[0]()} if KEPT else {}
    """
    site.add("keeps", source)
    with pytest.raises(RunError, match="failed in diagnostics: RuntimeError: hardening is over"):
        lifecycle.run(tiny(tmp_path, "thing", 0.0))
