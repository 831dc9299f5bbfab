"""An observed training: misplaced state is found, and only the first change of each kind is reported."""

from __future__ import annotations

import pytest
import torch
from matrix_cases import assert_found, assert_row, name
from mutants_state import MUTANTS
from sound import SoundScores

from pruneboard.testing.observation import Observations, observe, unchanged
from pruneboard.testing.trial import Trial

MESSAGES = {
    "CountsOnTheClass": ("keeps-nothing-on-itself", "changed class attribute updates of the pruner"),
    "CountsOnItself": ("keeps-nothing-on-itself", "changed attribute updates of the pruner"),
    "LogsOnTheClass": ("keeps-nothing-on-itself", "changed class attribute log of the pruner"),
    "AveragesInAnAttribute": ("gate-state-can-be-saved", "attribute average of Averaging holds a tensor"),
    "CachesTensors": ("gate-state-can-be-saved", "attribute cached of Mask holds a tensor"),
}
OTHERS = [pruner for pruner in MUTANTS if name(pruner) not in MESSAGES]
"""Only a resumed run reveals the fault of these, see test_mutants.py."""


@pytest.mark.parametrize("pruner", OTHERS, ids=name)
def test_other_state_is_not_found_by_observation(pruner):
    """A Python number, a module's variable, a non-persistent buffer and a generator pass every cheap check."""
    assert not any(assert_row(pruner).values())


@pytest.mark.parametrize("pruner", [pruner for pruner in MUTANTS if name(pruner) in MESSAGES], ids=name)
def test_misplaced_state_is_found(pruner):
    """State on the pruner, on its class or in an attribute of a gate is reported with its name."""
    assert_found(pruner, MESSAGES)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"a": 1, "b": 2}, {}),
        ({"a": 1, "b": 3}, {"kind": "hook changed b"}),
        ({"a": 1}, {"kind": "hook changed b"}),
        ({"a": 1, "b": 2, "c": 0}, {"kind": "hook changed c"}),
        ({"a": 0, "b": 0}, {"kind": "hook changed a"}),
    ],
)
def test_the_first_difference_is_noted(after, expected):
    """A changed, removed or added name is noted, the first one only; equal snapshots give no note."""
    snapshots = iter([{"kind": {"a": 1, "b": 2}}, {"kind": after}])
    found = Observations()
    with unchanged(found, "hook", lambda: next(snapshots)):
        pass
    assert found.violations == expected


def test_a_correct_pruner_has_no_violations_and_gradients_everywhere():
    """The observed training of a correct pruner notes nothing, and sees a gradient for each weight and each score."""
    found = observe(Trial(SoundScores(sparsity=0.9), "prune"))
    assert found.violations == {}
    assert len(found.gradients) == 10
    assert {tensor.partition("/")[2] for tensor in found.gradients} == {"weight", "score"}
    assert min(found.gradients.values()) > 0


def test_observing_does_not_change_the_training():
    """The observed training gives the same bits as an unobserved one."""
    trial = Trial(SoundScores(sparsity=0.9), "prune")
    plain, observed = trial.train().state, observe(trial).result.state
    assert all(torch.equal(plain[tensor], observed[tensor]) for tensor in plain)
