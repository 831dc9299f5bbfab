"""Checks of the result of training: wrong counts, false reports and differing folded networks are found."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_results import MUTANTS

from pruneboard.testing import results
from pruneboard.testing.trial import LAYER_NAMES

BUDGET = "positions where the budget is"
MESSAGES = {
    "FalseReport": ("keeps-what-it-says", "weights outside the mask are not zero"),
    "ClaimsZeros": ("keeps-what-it-says", "kept positions hold 0.0"),
    "OffByOne": ("hits-the-target", BUDGET),
    "TruncatesTheCount": ("hits-the-target", BUDGET),
    "ReadsWholePercents": ("hits-the-target", f"at sparsity {results.SPARSITIES[1]} it keeps"),
    "PrunesAtZero": ("zero-sparsity-is-dense", "at sparsity 0, where it keeps 1567 of 1568 positions"),
    "LearnsAtZero": ("zero-sparsity-is-dense", "differ from dense training"),
    "KeepsOneOfEach": ("reports-small-layers", "positions with a tiny layer where the budget is"),
    "NeedsOneOfEach": ("reports-small-layers", "a layer of two weights: expected a ValueError, found"),
    "NeedsThreeWeights": ("reports-small-layers", "a layer of two weights: expected a ValueError, found"),
    "FoldsOtherwise": ("folds-to-a-plain-network", "folded() must equal forward() in eval mode"),
    "RescalesFrozenWeights": ("frozen-weights-stay-frozen", "values are not the initial ones"),
    "PrunesOnce": ("keeps-what-it-says", "changed after hardening; every mask must be final there"),
    "MasksFollowWeights": ("keeps-what-it-says", "changed after hardening; every mask must be final there"),
    "ConvolutionsDoNotLearn": ("gradient-reaches-every-layer", "no gradient ever reaches stem/weight"),
    "ScoresDoNotLearn": ("gradient-reaches-every-layer", "no gradient ever reaches stem/score"),
    "RoundsEachLayer": ("hits-the-target", f"at sparsity {results.SPARSITIES[1]} it keeps"),
}


@pytest.mark.parametrize("pruner", MUTANTS, ids=name)
def test_wrong_results_are_found(pruner):
    """The checks of its row fail for each pruner with a wrong result, and the message says what is wrong."""
    assert_found(pruner, MESSAGES)


def test_renamed_layers_have_other_names_in_the_opposite_order():
    """No name survives, and sorting by name reverses the layers, so that a method that sorts by name is found."""
    assert not set(results.RENAMED) & set(LAYER_NAMES)
    assert sorted(results.RENAMED) == list(reversed(results.RENAMED))
