"""Advice, not required for a place on a board: checks that make a method easier to use and to trust."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re

from pruneboard import registry
from pruneboard.testing.checks import Check, CheckSkippedError, CheckSubject, check, require

_REFERENCE = re.compile(r"arxiv|doi|https?://|\b(19|20)\d\d\b", re.IGNORECASE)


@check("advice", applies=lambda subject: subject.traits.control != "dense", when="the method prunes", trains=False)
def cites_its_source(subject: CheckSubject) -> None:
    """The docstring of the class or its module names the paper or the code that the method is based on."""
    text = inspect.getdoc(type(subject.pruner)) or ""
    module = inspect.getmodule(type(subject.pruner))
    text += (module and inspect.getdoc(module)) or ""
    require(bool(_REFERENCE.search(text)), "name the source in the docstring: an arXiv number, a DOI, a link or a year")


@check("advice", trains=False)
def explains_its_options(subject: CheckSubject) -> None:
    """The docstring of the class explains every option."""
    text = inspect.getdoc(type(subject.pruner)) or ""
    missing = [name for name in registry.option_types(type(subject.pruner)) if not re.search(rf"\b{name}\b", text)]
    require(not missing, f"the docstring does not explain {', '.join(missing)}")


@check("advice", applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def reaches_extreme_sparsity(subject: CheckSubject) -> None:
    """At a sparsity that leaves two weights in the whole network, training works and the count is exact."""
    n = sum(count.n for count in subject.result.counts)
    kept = subject.at(1 - 2 / n).result.kept
    require(kept == 2, f"with a budget of 2 of {n} weights, it keeps {kept}")


@check("advice", applies=lambda subject: subject.takes_steps, when="training takes optimizer steps")
def runs_on_a_short_budget(subject: CheckSubject) -> None:
    """With a budget of two steps, where the points of a schedule coincide, the count is exact."""
    result = subject.trial(recipe={"epochs": 1, "batch_size": 64}).train()
    if subject.traits.hits_target:
        kept, budget = result.kept, subject.budget(result)
        require(kept == budget, f"with two steps, it keeps {kept} positions where the budget is {budget}")


@check("advice")
def shows_numbers(subject: CheckSubject) -> None:
    """`diagnostics` returns finite Python numbers by name, for logs and event files."""
    run = subject.result.run
    found = run.pruner.diagnostics(run.layers, run.progress(run.budget.total, may_write=False))
    if not found:
        raise CheckSkippedError("the method has no diagnostics")
    odd = [name for name, value in found.items() if type(value) not in (int, float) or not math.isfinite(value)]
    require(not odd, f"not a finite Python int or float: {', '.join(odd)}")


@check("advice", trains=False)
def checks_its_options(subject: CheckSubject) -> None:
    """A sparsity outside [0, 1) raises a ValueError, even if the class has its own `__post_init__`."""
    for sparsity in (-0.1, 1.0, 90.0, math.nan):
        try:
            dataclasses.replace(subject.pruner, sparsity=sparsity)
        except ValueError:
            continue
        require(False, f"sparsity {sparsity} is accepted: call super().__post_init__() first")  # noqa: FBT003 - always fails


CHECKS: tuple[Check, ...] = (
    cites_its_source,
    explains_its_options,
    reaches_extreme_sparsity,
    runs_on_a_short_budget,
    shows_numbers,
    checks_its_options,
)
