"""Turns the suite into pytest parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pruneboard.api import Pruner
from pruneboard.testing.checks import Tier
from pruneboard.testing.suite import check_names, pruner_checks


def parametrize_with_checks(
    pruners: Iterable[Pruner[Any]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    tiers: Iterable[Tier] = ("core",),
    processes: bool = True,
) -> Callable[[Callable[..., Any]], Any]:
    """Parametrize a test with every check that applies to the given pruners.

    For instance::

        @parametrize_with_checks([Mine(sparsity=0.9)])
        def test_the_rules_of_the_board(pruner, check):
            check(pruner)

    Args:
        pruners: instances, with the options to check.
        expected_failures: name of a check -> why its failure is accepted. The case is marked as a strict xfail.
        tiers: `core`, `advice` or both.
        processes: whether to include the checks that use a pair of processes.

    Raises:
        UnknownNameError: `expected_failures` names a check that does not exist.
    """
    import pytest

    wanted, expected = set(tiers), dict(expected_failures or {})
    bound = [(pruner, check) for pruner in pruners for check in pruner_checks(pruner)]
    check_names(expected, (check for _, check in bound))
    parameters = []
    for pruner, check in bound:
        reason = expected.get(check.name, expected.get(check.check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        if check.check.tier in wanted and (processes or not check.check.processes):
            parameters.append(pytest.param(pruner, check, id=f"{type(pruner).__name__}-{check.name}", marks=marks))
    return pytest.mark.parametrize(("pruner", "check"), parameters)
