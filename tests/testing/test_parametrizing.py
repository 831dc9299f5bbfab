"""The suite as pytest cases: their names, expected failures and skips."""

from __future__ import annotations

import textwrap

import pytest
from sound import Sound

from pruneboard.errors import UnknownNameError
from pruneboard.testing import parametrize_with_checks

pytest_plugins = ["pytester"]

CASES = """
    import pytest
    from mutants_interface import Uncited, Unexplained
    from sound import SoundScores

    from pruneboard.testing import parametrize_with_checks

    PRUNERS = [SoundScores(sparsity=0.9), Uncited(sparsity=0.9)]
    WHY = {"cites-its-source": "it is a test", "shows-numbers": "it is a test"}

    @parametrize_with_checks(PRUNERS, tiers=["core"], processes=False)
    def test_core(pruner, check):
        if not check.check.trains:
            check(pruner)

    @parametrize_with_checks([Uncited(sparsity=0.9)], tiers=["advice"], expected_failures=WHY)
    def test_advice(pruner, check):
        if check.check.name in ("cites-its-source", "shows-numbers", "explains-its-options"):
            check(pruner)
        elif check.check.name == "runs-on-a-short-budget":
            pytest.skip("slow")

    @parametrize_with_checks([Unexplained(sparsity=0.9)], tiers=["advice"], expected_failures={"cites-its-source": "-"})
    def test_strictly(pruner, check):
        if check.check.name == "cites-its-source":
            check(pruner)
"""


def test_the_checks_as_cases_of_pytest(pytester):
    """Cases are named by class and check; an expected failure is a strict xfail, a check that cannot run is skipped."""
    pytester.makepyfile(textwrap.dedent(CASES))
    found = pytester.runpytest_inprocess("-v", "-rA", "-p", "no:cacheprovider", "-o", "addopts=")
    text = found.stdout.str()
    assert "::test_core[SoundScores-frozen-and-picklable] PASSED" in text
    assert "::test_core[SoundScores-is-repeatable[supermask]] PASSED" in text
    assert "two-processes-agree" not in text
    assert "::test_advice[Uncited-cites-its-source] XFAIL" in text
    assert "::test_advice[Uncited-shows-numbers] SKIPPED" in text
    assert "the method has no diagnostics" in text
    assert "::test_strictly[Unexplained-cites-its-source] FAILED" in text
    outcomes = found.parseoutcomes()
    assert (outcomes["xfailed"], outcomes["failed"], outcomes["skipped"]) == (1, 1, 2)


def test_an_unknown_check_is_refused():
    """An expected failure of a check that does not exist is an error that suggests the nearest name."""
    with pytest.raises(UnknownNameError, match="did you mean is-repeatable"):
        parametrize_with_checks([Sound(sparsity=0.9)], expected_failures={"is-repeatabel": "why"})
