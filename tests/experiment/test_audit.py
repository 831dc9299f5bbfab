"""The audit of the folded model: counts, budget, and frozen weights that must not change."""

from __future__ import annotations

import json

import pytest
import torch

import runs
from pruneboard.api import Gate, Layer, Mask
from pruneboard.errors import AuditError, RunError
from pruneboard.experiment.audit import check_unchanged


def test_a_changed_sign_of_zero_is_a_changed_weight():
    """-0.0 differs from 0.0, and NaN from everything; pruned positions are ignored."""
    weight = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    gate = Mask(weight)
    gate.set(torch.tensor([1.0, 1.0, 0.0]))
    layers: list[Layer[Gate]] = [Layer(0, "fc", weight, gate, 2)]
    start = {"fc.weight": weight.detach().clone()}
    check_unchanged(layers, start, {"fc.weight": torch.tensor([0.0, 1.0, 0.0])})
    for changed in ([-0.0, 1.0, 0.0], [0.0, 1.0 + 1e-7, 0.0], [0.0, float("nan"), 0.0]):
        with pytest.raises(AuditError, match="1 values are not the initial ones"):
            check_unchanged(layers, start, {"fc.weight": torch.tensor(changed)})


CHEATING = """
    from dataclasses import dataclass
    from pruneboard.api import Mask, Pruner

    class Doubled(Mask):
        def forward(self, weight):
            return 2 * weight * self.keep

    @dataclass(frozen=True, kw_only=True)
    class Thing(Pruner[Doubled]):
        tracks = frozenset({"supermask"})

        def gate(self, weight):
            return Doubled(weight)
"""


def test_a_method_that_moves_a_frozen_weight_fails_the_run(tmp_path, site):
    """A gate that scales the weights it keeps is found by the comparison of bits, and its run is invalid."""
    site.add("cheats", CHEATING)
    with pytest.raises(RunError, match=r"conv1.*values are not the initial ones"):
        runs.run(tmp_path / "results", "thing", 0.0, track="supermask")
    record = json.loads((runs.folder(tmp_path / "results") / "run.json").read_text())
    assert record["status"] == "invalid"
