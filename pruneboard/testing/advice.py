"""What is not required for a place on a board, and makes a method easier to use and to trust."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re

import torch

from pruneboard import registry
from pruneboard.testing.subject import Check, CheckSkippedError, Subject, check, require

_REFERENCE = re.compile(r"arxiv|doi|https?://|\b(19|20)\d\d\b", re.IGNORECASE)


@check("advice", applies=lambda subject: subject.traits.control != "dense", when="it prunes", trains=False)
def cites_its_source(subject: Subject) -> None:
    """The docstring of the class names the paper or the code that the method comes from."""
    text = inspect.getdoc(type(subject.pruner)) or ""
    module = inspect.getmodule(type(subject.pruner))
    text += (module and inspect.getdoc(module)) or ""
    require(bool(_REFERENCE.search(text)), "name the paper: an arXiv number, a DOI, a link or a year")


@check("advice", trains=False)
def explains_its_options(subject: Subject) -> None:
    """The docstring of the class says what each option means."""
    text = inspect.getdoc(type(subject.pruner)) or ""
    missing = [name for name in registry.option_types(type(subject.pruner)) if not re.search(rf"\b{name}\b", text)]
    require(not missing, f"the docstring says nothing of {', '.join(missing)}")


@check("advice", applies=lambda subject: subject.traits.hits_target, when="the sparsity is a target")
def reaches_extreme_sparsity(subject: Subject) -> None:
    """Down to the last two weights of a network counts are exact, and nothing breaks."""
    n = sum(count.n for count in subject.trained.counts)
    there = subject.at(1 - 2 / n)
    found = there.trained.kept
    require(found == 2, f"asked to keep 2 of {n} weights it keeps {found}")


@check("advice", applies=lambda subject: subject.learns, when="something is learned")
def runs_on_a_short_budget(subject: Subject) -> None:
    """A budget of two steps, in which schedules fall together, ends with the exact count too."""
    found = subject.bench(recipe={"epochs": 1, "batch_size": 64}).trained()
    if subject.traits.hits_target:
        require(found.kept == subject.budget(found), f"in two steps it keeps {found.kept}, not {subject.budget(found)}")


@check("advice")
def shows_numbers(subject: Subject) -> None:
    """`diagnostics` returns finite numbers by name, Python's own, for logs and for event files, and changes nothing."""
    run = subject.trained.run
    before = {name: tensor.clone() for name, tensor in run.engine.model.state_dict().items()}
    found = run.pruner.diagnostics(run.layers, run.progress(run.budget.total))
    if not found:
        raise CheckSkippedError("it shows no diagnostics")
    odd = [name for name, value in found.items() if type(value) not in (int, float) or not math.isfinite(value)]
    require(not odd, f"{', '.join(odd)} is no finite number of Python's own")
    after = run.engine.model.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    require(not changed, f"it changes {', '.join(changed)}: what is shown may not depend on who looks")


@check("advice", trains=False)
def checks_its_options(subject: Subject) -> None:
    """A sparsity outside [0, 1) is refused with a ValueError, also where `__post_init__` checks more."""
    for sparsity in (-0.1, 1.0, 90.0, math.nan):
        try:
            dataclasses.replace(subject.pruner, sparsity=sparsity)
        except ValueError:
            continue
        require(False, f"sparsity {sparsity} is taken: call super().__post_init__() first")  # noqa: FBT003 - found


CHECKS: tuple[Check, ...] = (
    cites_its_source,
    explains_its_options,
    reaches_extreme_sparsity,
    runs_on_a_short_budget,
    shows_numbers,
    checks_its_options,
)
