"""Ways around the rules of the interface: each is found by core checks, most of them in every training."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_cheating import MUTANTS

MESSAGES = {
    "ExitsQuietly": ("hits-the-target", "failed in before_step: SystemExit: 0"),
    "EndsTheProcess": ("hits-the-target", "failed in before_step: RuntimeError: os._exit(0) was called"),
    "DiagnosticsChangeWeights": ("hits-the-target", "failed in diagnostics: RuntimeError: assign() is not valid here"),
    "DiagnosticsWriteInPlace": ("hits-the-target", "a weight or a gate changed during diagnostics at step 8"),
    "DiagnosticsClearMomentum": ("hits-the-target", "reset_optimizer_state() is not valid here"),
    "ClimbsOnValidation": ("hits-the-target", "harden called validate() more than 16 times"),
    "CatchesTheLimit": ("hits-the-target", "harden called validate() more than 0 times"),
    "HardensWeights": ("hits-the-target", "harden changed stem.parametrizations.weight.original"),
    "ReplacesTheEvaluation": ("leaves-the-harness", "replaced pruneboard.training.loop.evaluate"),
    "RefillsMasks": ("hits-the-target", "changed after hardening, at step 12"),
    "RefillsMasksUnseen": ("hits-the-target", "changed after hardening, at step 12"),
    "TrainsDense": ("hits-the-target", "gives another weight in training than in evaluation"),
    "GatesWrite": ("hits-the-target", "changed during the evaluation at step 8"),
    "HooksIntoGradients": ("hits-the-target", "it left a hook on stem.parametrizations.weight.original"),
    "HooksEveryModule": ("leaves-the-process", "torch's global hooks"),
    "LeavesAThread": ("leaves-the-process", "before_step left the thread"),
    "IgnoresSigterm": ("leaves-the-process", "the signal handlers"),
    "FlushesDenormals": ("leaves-the-process", "torch's treatment of denormal numbers"),
    "TurnsOneDnnOff": ("leaves-the-process", "torch's use of oneDNN"),
    "ChangesTheFolder": ("leaves-the-process", "before_step changed the working directory"),
}


@pytest.mark.parametrize("pruner", MUTANTS, ids=name)
def test_ways_around_the_rules_are_found(pruner):
    """The checks of its row fail for each pruner, and the message says what is wrong."""
    assert_found(pruner, MESSAGES)
