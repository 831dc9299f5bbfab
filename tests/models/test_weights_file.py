"""Files with initial weights: the tensors in which a file and a network differ."""

from __future__ import annotations

import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneboard.models.weights_file import few, find_misfit, not_finite

NETWORK = timm.create_model("test_vit", num_classes=4, img_size=32)
NAMES = list(NETWORK.state_dict())


@settings(max_examples=30, deadline=None)
@given(
    missing=st.sets(st.sampled_from(NAMES), max_size=5),
    reshaped=st.sets(st.sampled_from(NAMES), max_size=5),
    surplus=st.sets(st.text("xyz", min_size=1, max_size=3), max_size=5),
)
def test_every_difference_is_found(missing, reshaped, surplus):
    """Whatever is removed, added or reshaped is listed under its kind, with the number of all, and nothing else is."""
    state = NETWORK.state_dict()
    for name in missing:
        del state[name]
    for name in reshaped - missing:
        state[name] = torch.zeros(state[name].numel() + 1)
    found = find_misfit(NETWORK, {**state, **{name: torch.zeros(1) for name in surplus}})
    assert (set(found.missing), set(found.reshaped), set(found.surplus)) == (missing, reshaped - missing, surplus)
    assert found.names == missing | reshaped | surplus
    assert found.retyped == {}
    if missing:
        count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
        assert f"{count} missing in the file: {few(found.missing)}" in str(found)


def test_the_head_is_the_classifier():
    """Its tensors are those that depend on the number of classes."""
    misfit = find_misfit(NETWORK, timm.create_model("test_vit", num_classes=5, img_size=32).state_dict())
    assert misfit.head == misfit.names == {"head.weight", "head.bias"}


def test_values_that_are_not_finite_are_counted():
    """NaN and both infinities count; integers are always finite."""
    tensors = {"a": torch.tensor([1.0, torch.nan, -torch.inf]), "b": torch.tensor([1, 2]), "c": torch.zeros(0)}
    assert not_finite(tensors) == ["a (2 of 3 values)"]


def test_at_most_three_are_named():
    """Longer lists end with the number of the others."""
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
