"""Checks of side effects: each mutant that changes something outside its own state is found."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_side_effects import MUTANTS

MESSAGES = {
    "MovesBiases": ("touches-only-prunable-weights", "harden changed first_norm.bias: it may change gates only"),
    "ChangesNormalization": ("touches-only-prunable-weights", "before_step at step 0 changed momentum of first_norm"),
    "HooksIntoTheNetwork": ("touches-only-prunable-weights", "it left a hook on first_norm"),
    "ProbesTheNetwork": ("pays-for-its-passes", "before_step at step 0 ran the network"),
    "SetsTheProcess": ("leaves-the-process", "before_step changed cuDNN's benchmark mode"),
    "WritesTheEnvironment": ("leaves-the-process", "before_step changed the environment variables"),
    "InitializesInAHook": ("starts-where-all-start", "before_step changed the weight of layer stem before the first"),
    "InitializesInTheGate": ("starts-where-all-start", "gate or gate_optimizer changed the initial weights"),
    "LeavesEvaluationMode": ("leaves-modes", "before_step at step 0 changed the mode of module network"),
    "LeavesGatesInEvaluationMode": ("leaves-modes", "harden at step 12 changed the mode of module stem"),
    "FreezesScores": ("leaves-requires-grad", "changed requires_grad of stem"),
    "UnfreezesWeights": ("leaves-requires-grad", "changed shape, dtype or requires_grad of stem"),
    "RaisesTheRate": ("leaves-the-optimizer", "it changed the optimizer, lr of the group weights"),
    "SkipsDecay": ("leaves-the-optimizer", "changed params of the optimizer's group weights"),
    "ReplacesTheAudit": ("leaves-the-harness", "the training replaced pruneboard.experiment.audit.check_budget"),
    "RewritesTheBudget": ("leaves-the-harness", "the training replaced pruneboard.scores.kept_of"),
    "ValidatesLater": ("pays-for-its-passes", "validate"),
    "ReadsAhead": ("pays-for-its-passes", "score"),
}


@pytest.mark.parametrize("pruner", MUTANTS, ids=name)
def test_side_effects_are_found(pruner):
    """The checks of its row fail for each pruner with a side effect, and the message says where and what."""
    assert_found(pruner, MESSAGES)
