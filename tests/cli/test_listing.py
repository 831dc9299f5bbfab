"""`pruneboard list`: methods, recipes, data sets and models."""

from __future__ import annotations

import json

from pruneboard import spec
from pruneboard.cli import invoke, listing


def test_each_kind_is_listed(capfd):
    """`list` prints methods with their distribution; a second argument selects recipes, data sets or models."""
    assert invoke(["list", "--json"]) == 0
    methods = {row["method"]: row for row in json.loads(capfd.readouterr().out)}
    assert methods["probmask"]["distribution"] == "pruneboard"
    for kind, word in [("recipes", "cifar"), ("datasets", "imagenet"), ("models", "resnet32_cifar")]:
        assert invoke(["list", kind]) == 0
        assert word in capfd.readouterr().out


def test_check_applies_to_methods_only(capfd):
    """`list --check` finds every built-in method usable, and is refused for other kinds."""
    assert invoke(["list", "--check", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["problem"] for row in rows if row["distribution"] == "pruneboard"] == [None] * len(rows)
    assert invoke(["list", "recipes", "--check"]) == 2
    assert "leave it out to list recipes" in capfd.readouterr().err


def test_a_pattern_filters_names(capfd):
    """Only names that match the shell pattern are listed, with `--json` as objects; no match is an empty table."""
    assert invoke(["list", "models", "resnet*_cifar", "--json"]) == 0
    found = {row["model"] for row in json.loads(capfd.readouterr().out)}
    assert found == {"resnet8_cifar", "resnet20_cifar", "resnet32_cifar"}
    assert invoke(["list", "methods", "no-such-*"]) == 0
    assert "nothing found" in capfd.readouterr().out


def test_a_method_that_cannot_be_used_is_reported(capfd, site):
    """`list --check` exits with 3 if a method cannot be imported, and prints one line with the reason."""
    site.add("theirs", "raise RuntimeError('no such device')", method="unusable")
    assert invoke(["list", "methods", "unusable", "--check"]) == 3
    out, err = capfd.readouterr()
    assert "no such device" in out
    assert "cannot be used" in out
    assert err == "error: 1 of 1 methods cannot be used; the lines above say why and what to do\n"


def test_every_default_recipe_is_of_a_listed_data_set():
    """The data sets that `list` describes are those that have a recipe."""
    known = [name for recipe in spec.recipe_names() for name in spec.load_recipe(recipe).default_for]
    assert set(listing.DATASETS) == set(known)
