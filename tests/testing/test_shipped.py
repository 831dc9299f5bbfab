"""Every built-in method passes all core checks, with no expected failure."""

from __future__ import annotations

from contextlib import suppress

import pytest

from pruneboard import registry
from pruneboard.errors import UsageError
from pruneboard.testing import parametrize_with_checks, pruner_checks

SHORT = {"samples": 2}
"""Options that shorten training, for methods that have them: the number of masks compared in hardening."""


def built(info):
    """A built-in method at 90 % sparsity, or without a sparsity if it takes none."""
    options = {name: SHORT[name] for name in registry.option_types(registry.load(info)) if name in SHORT}
    with suppress(UsageError):
        return registry.build(info, 0.9, options)
    return registry.build(info, None, options)


SHIPPED = [built(info) for info in registry.installed() if info.distribution == "pruneboard"]

IN_USE = ("ProbMask", "RigL", "STR", "EdgePopup", "SynFlow")
"""Methods checked by default: one of each way to choose a mask."""

IN_SHORT = ("ProbMask", "RigL")
"""Methods whose expensive checks run by default: one learns its masks, the other writes them."""


@parametrize_with_checks([p for p in SHIPPED if type(p).__name__ in IN_USE], processes=False)
def test_built_in_methods_pass_the_core_checks(pruner, check):
    """Each core check that uses one process passes, on each track."""
    check(pruner)


@pytest.mark.slow
@parametrize_with_checks([p for p in SHIPPED if type(p).__name__ not in IN_USE], processes=False)
def test_the_other_built_in_methods_pass_the_core_checks(pruner, check):
    """Each core check that uses one process passes for the methods that are not checked by default."""
    check(pruner)


@pytest.mark.parametrize("shipped", [IN_SHORT, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "all"])
def test_built_in_methods_pass_the_checks_with_processes(shipped):
    """Each core check that uses a pair of processes passes, on each track; all methods share one pair."""
    for pruner in (pruner for pruner in SHIPPED if shipped is None or type(pruner).__name__ in shipped):
        for check in pruner_checks(pruner):
            if check.check.processes:
                check(pruner)


@pytest.mark.slow
@parametrize_with_checks(SHIPPED, tiers=["advice"], processes=False)
def test_built_in_methods_follow_the_advice(pruner, check):
    """Each advice check that applies passes."""
    check(pruner)


@pytest.mark.parametrize(
    "pruner",
    [p if type(p).__name__ == IN_SHORT[0] else pytest.param(p, marks=pytest.mark.slow) for p in SHIPPED],
    ids=lambda pruner: type(pruner).__name__,
)
def test_built_in_methods_run_on_cuda(cuda, pruner):
    """On a CUDA device, the check that is skipped elsewhere passes."""
    for check in pruner_checks(pruner):
        if check.check.name == "runs-on-cuda":
            check(pruner)
