"""Checks without training: each faulty class is found, with a message that says what is wrong."""

from __future__ import annotations

import pytest
from matrix_cases import assert_found, name
from mutants_interface import MUTANTS
from sound import SoundScores

from pruneboard.testing import interface
from pruneboard.testing.checks import CheckSubject

MESSAGES = {
    "NotDecorated": ("frozen-and-picklable", "decorate the class with @dataclass(frozen=True, kw_only=True)"),
    "EqualToNothing": ("frozen-and-picklable", "the unpickled pruner differs"),
    "TakesAFunction": ("frozen-and-picklable", "use options that can be pickled and hashed"),
    "WrongAnnotation": ("options-can-be-typed", "rate"),
    "UnknownAnnotation": ("options-can-be-typed", "rates"),
    "ChangesItsTraits": ("traits-are-constant", "traits() returns another value on the second call"),
    "HardensHalfway": ("traits-are-constant", "harden_at is 0 or 1 on the supermask track"),
    "UnknownTrack": ("traits-are-constant", "tracks is a non-empty subset of"),
    "KeptIsNoBool": ("gate-keeps-shape-and-dtype", "torch.uint8"),
    "KeptHasAnotherShape": ("gate-keeps-shape-and-dtype", "kept() must return a tensor of"),
}


@pytest.mark.parametrize("pruner", MUTANTS, ids=name)
def test_faulty_classes_are_found(pruner):
    """The checks of its row fail for each faulty class, and the message names the fault."""
    assert_found(pruner, MESSAGES)


def test_gates_are_checked_in_several_shapes_and_memory_formats():
    """Gates get linear, convolution and depthwise weights, and every 4-d weight in channels-last too."""
    subject = CheckSubject(SoundScores(sparsity=0.9), "prune")
    weights = [weight for weight, _ in interface._gates(subject)]
    assert {weight.dim() for weight in weights} == {2, 4}
    assert any(weight.shape[1] == 1 for weight in weights)
    assert any(weight.dim() == 4 and not weight.is_contiguous() for weight in weights)
