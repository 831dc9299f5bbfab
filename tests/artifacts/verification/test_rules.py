"""Every rule can fail, and the formulas that are written twice agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_records import change
from pruneboard import scores
from pruneboard.artifacts.verification import rules
from pruneboard.artifacts.verification.rules import RULES
from pruneboard.experiment import audit
from pruneboard.records.schema import lookup
from verify_cases import one_with, problems


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}<-{','.join(rule.needs)}")
def test_every_rule_can_fail(rule):
    """A wrong value is reported with its path; the rest of the record may disagree too."""
    path = "track" if rule.path == "error" else rule.path  # the error of a finished run is null
    record = one_with(path) if not path.startswith("cost.storage_bits") else one_with("cost.storage_bits.mask")
    record["lifecycle"].setdefault("attempts", [{}])  # the oldest records lack it
    assert rule.problem(record) is None
    value = lookup(record, rule.path)
    wrong = -1 if rule.bounds else {str: "other", int: -1, float: -1.0, list: ["x"], dict: {"x": 1}}.get(type(value), 1)
    change(record, rule.path, wrong)
    assert rule.path in (rule.problem(record) or "")
    assert rule.check in problems(record)


@pytest.mark.parametrize("key", ["alive", "macs_dense", "macs_remaining"])
def test_a_layers_values_follow_from_its_counts(key):
    """At most the non-zero weights are alive, and multiply-adds are weights times positions."""
    record = one_with("sparsity.alive")
    assert "record.sparsity" not in problems(record)
    record["sparsity"]["layers"][1][key] += 1
    assert "record.sparsity" in problems(record)
    record = one_with("sparsity.alive")
    record["sparsity"]["layers"][1]["macs_remaining"] = record["sparsity"]["layers"][1]["macs_dense"]
    assert "record.sparsity" not in problems(record)


def test_an_unknown_effective_sparsity_is_accepted():
    """If paths through the network could not be followed, the record has null, and its layers have no value."""
    record = one_with("sparsity.alive")
    record["sparsity"] |= {"alive": None, "effective": None}
    for layer in record["sparsity"]["layers"]:
        del layer["alive"]
    assert "record.sparsity" not in problems(record)


def test_the_bound_on_kept_zeros_is_the_audits():
    """The bound on kept zeros equals that of the audit, which imports torch."""
    assert rules.KEPT_ZERO_TOLERANCE == audit.KEPT_ZERO_TOLERANCE


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_budget_is_that_of_the_scores(n, sparsity):
    """The rule rounds the number of kept weights as `scores.kept_of` does."""
    (rule,) = (rule for rule in RULES if rule.path == "sparsity.keep")
    assert rule.expected(n, sparsity, None) == (scores.kept_of(n, sparsity),) * 2
