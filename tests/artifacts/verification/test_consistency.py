"""A record against itself: every published record agrees, every rule can fail, and no value makes one stumble."""

from __future__ import annotations

import copy
import itertools
import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_records import change
from pruneboard import scores
from pruneboard.artifacts.verification import consistency, rules
from pruneboard.artifacts.verification.rules import RULES
from pruneboard.experiment import audit
from pruneboard.records import store
from pruneboard.records.schema import RecordError, lookup, validate

RESULTS = Path(__file__).parents[3] / "results"
NEWER = ("sparsity.layers", "sparsity.alive", "sparsity.effective")
PARTS = {"dense": "n", "remaining": "nonzero"}
HOSTILE = (None, True, -1, 10**30, 1e300, "x" * 50, [[]], {"a": {}})


@cache
def published():
    """The records of this repository, with their files."""
    return store.scan([RESULTS]).records


def problems(record):
    """What fails, by name."""
    return {check.name: check.note for check in consistency.check(record) if check.status == "failed"}


def one_with(path):
    """A copy of a published record that has something at a path, as a run of today would have written it."""
    record = copy.deepcopy(
        next(record for _, record in published() if path in NEWER or lookup(record, path) is not None)
    )
    if path in NEWER:
        sparsity = record["sparsity"]
        for layer in sparsity["layers"]:
            spent = {f"macs_{name}": layer[part] * layer["positions"] for name, part in PARTS.items()}
            layer |= {"alive": layer["nonzero"], **spent}
        sparsity |= {"alive": sparsity["nonzero"], "effective": sparsity["measured"]}
    return record


def test_every_published_record_agrees_with_itself():
    """No honest record breaks a rule: not one of any track, method, ablation or earlier version here."""
    assert published()
    for path, record in published():
        checks = [*consistency.check(record), *consistency.check_log(record, path.with_name(consistency.LOG))]
        assert [check for check in checks if check.status != "ok"] == [], path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}<-{','.join(rule.needs)}")
def test_every_rule_can_fail(rule):
    """Another value than the right one is named with its path; the rest of the record may disagree as well."""
    path = "track" if rule.path == "error" else rule.path  # an honest error is null
    record = one_with(path) if not path.startswith("cost.storage_bits") else one_with("cost.storage_bits.mask")
    record["lifecycle"].setdefault("attempts", [{}])  # the oldest records do not list them
    assert rule.problem(record) is None
    said = lookup(record, rule.path)
    wrong = -1 if rule.bounds else {str: "other", int: -1, float: -1.0, list: ["x"], dict: {"x": 1}}.get(type(said), 1)
    change(record, rule.path, wrong)
    assert rule.path in (rule.problem(record) or "")
    assert rule.check in problems(record)


@pytest.mark.parametrize("key", ["alive", "macs_dense", "macs_remaining"])
def test_what_a_layer_says_follows_from_its_counts(key):
    """No more weights are alive than left; multiply-adds are weights times positions, or all, of standardized ones."""
    record = one_with("sparsity.alive")
    assert "record.sparsity" not in problems(record)
    record["sparsity"]["layers"][1][key] += 1
    assert "record.sparsity" in problems(record)
    record = one_with("sparsity.alive")
    record["sparsity"]["layers"][1]["macs_remaining"] = record["sparsity"]["layers"][1]["macs_dense"]
    assert "record.sparsity" not in problems(record)


def test_an_effective_sparsity_that_is_not_known_is_no_fault():
    """Where paths could not be followed the record says null, and no layer says anything."""
    record = one_with("sparsity.alive")
    record["sparsity"] |= {"alive": None, "effective": None}
    for layer in record["sparsity"]["layers"]:
        del layer["alive"]
    assert "record.sparsity" not in problems(record)


@pytest.mark.parametrize(
    "path",
    [
        *("rules", "track", "seed", "board.scope", "board.precision", "sparsity.target"),
        *("method.name", "method.distribution", "method.version", "method.options.lr", "method.ablation"),
        *("model.name", "model.load_as", "model.create_args.num_classes", "model.stem", "model.init"),
        *("data.name", "data.sha256", "data.split_sha256", "data.limit_train", "data.mean", "data.test"),
        *("recipe.lr", "recipe.epochs", "recipe.augment", "recipe.val_fraction"),
    ],
)
def test_the_hash_covers_what_decides_a_result(path):
    """Each of these under the old hash is found."""
    record = one_with("method.options.lr")
    change(record, path, 0.125 if path == "sparsity.target" else 77)
    assert "its fields make it" in problems(record)["record.hash"]


def test_a_sparsity_of_the_methods_own_is_no_part_of_the_record():
    """Where none was asked for and something was pruned, the hash cannot be made anew, and is let be."""
    record = one_with("method.options.lr")
    record["sparsity"]["target"] = None
    assert "record.hash" not in problems(record)
    record["sparsity"]["keep"] = record["sparsity"]["prunable"]
    assert "record.hash" in problems(record)


def test_the_bound_on_kept_zeros_is_the_audits():
    """It is written twice because the audit needs torch."""
    assert rules.KEPT_ZERO_TOLERANCE == audit.KEPT_ZERO_TOLERANCE


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_budget_is_that_of_the_scores(n, sparsity):
    """As is the rounding of the budget."""
    (rule,) = (rule for rule in RULES if rule.path == "sparsity.keep")
    assert rule.expected(n, sparsity, None) == (scores.kept_of(n, sparsity),) * 2


def leaves(value, path=()):
    """The paths of everything in a record, blocks included; of lists the first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from leaves(item, (*path, name))


def test_no_value_makes_a_check_stumble(tmp_path):
    """Whatever the schema lets through, at any place, is looked at without an error, and quickly."""
    record = one_with("cost.storage_bits.mask")
    log = tmp_path / consistency.LOG
    log.write_text('{"epoch": 8, "step": 160, "validation": {"top1": 0.5}}\n')
    looked_at = 0
    for number, path in enumerate(leaves(record)):
        for value in itertools.islice(itertools.cycle(HOSTILE), number % 4, number % 4 + 4):
            mutant = json.loads(json.dumps(record))
            parent = mutant
            for name in path[:-1]:
                parent = parent[name]
            parent[path[-1]] = value
            try:
                validate(mutant)
            except RecordError:
                continue
            assert all(len(note) < 5000 for note in problems(mutant).values())
            consistency.check_log(mutant, log)
            looked_at += 1
    assert looked_at > 200
