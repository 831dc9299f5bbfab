"""`--fail-if`: what a bound says, which rows it looks at, and the exit code."""

from __future__ import annotations

import contextlib

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_records import put, record
from pruneboard import leaderboard
from pruneboard.cli import compare, invoke
from pruneboard.errors import UsageError
from pruneboard.leaderboard import fail_if
from pruneboard.leaderboard.fail_if import FailCondition, failing_rows, parse


def boards(*made):
    """The boards of some records."""
    return leaderboard.build_boards(made)


def breached(text, *made):
    """The methods that breach a bound, with how."""
    return {row.method: how for _, row, how in failing_rows(parse(text), boards(*made))}


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("drop > 0.005 at 0.9", FailCondition("drop", ">", 0.005, 0.9)),
        ("drop > 0.5% at 0.9", FailCondition("drop", ">", 0.005, 0.9)),
        ("drop>.5%  at .9", FailCondition("drop", ">", 0.005, 0.9)),
        ("top1 <= 90% at 0.95 for edge-popup", FailCondition("top1", "<=", 0.9, 0.95, "edge-popup")),
        ("drop >= -1e-3 at 0", FailCondition("drop", ">=", -0.001, 0.0)),
        ("top1 < 100% at 0.5", FailCondition("top1", "<", 1.0, 0.5)),
    ],
)
def test_a_bound_says_what_was_typed(text, meaning):
    """A fraction, or a number with a percent sign, of one quantity at one sparsity, of all methods or one."""
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("drop > 0.5 percent at 0.9", "found 'drop > 0.5 percent at 0.9'"),
        ("drop > 5 at 0.9", "for percent write 5%"),
        ("drop > 1 at 0.9", "for percent write 1%"),
        ("drop > nan at 0.9", "nan is no number"),
        ("drop > 0.1 at 90", r"a sparsity is a fraction of zeros in \[0, 1\); found 90"),
        ("drop > 0.1 at 90%", "90% is no number"),
        ("loss > 0.1 at 0.9", "with drop or top1"),
        ("drop == 0.1 at 0.9", "--fail-if is "),
        ("drop > 0.1", "--fail-if is "),
        ("", "--fail-if is "),
    ],
)
def test_what_could_be_misread_is_refused(text, told):
    """A bare number of 1 or more, another form, and what is no number are refused with the form that works."""
    with pytest.raises(UsageError, match=told):
        parse(text)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_a_bound_or_an_error_of_ours(text):
    """Whatever is typed, nothing but a usage error comes of it."""
    with contextlib.suppress(UsageError):
        parse(text)


DENSE = [record("dense", None, seed=s, top1=0.95) for s in range(2)]


def test_controls_are_not_looked_at_unless_named():
    """A bound is for methods: the random control would always breach it; by name it can be looked at."""
    made = [*DENSE, *(record(name, 0.9, seed=s, top1=0.5) for name in ("random", "magnitude", "str") for s in (0, 1))]
    assert breached("drop > 1% at 0.9", *made) == {"str": "drop 0.45 > 0.01 (n = 2)"}
    assert breached("drop > 1% at 0.9 for random", *made) == {"random": "drop 0.45 > 0.01 (n = 2)"}


def test_a_bound_is_strict_where_its_sign_is():
    """A drop of exactly the bound breaches >= and not >."""
    made = [record("dense", None, top1=0.75), record("str", 0.9, top1=0.5)]
    assert breached("drop > 0.25 at 0.9", *made) == {}
    assert breached("drop >= 0.25 at 0.9", *made) == {"str": "drop 0.25 >= 0.25 (n = 1)"}


def test_what_is_not_known_is_a_breach():
    """A failed run and a drop without a dense control cannot pass for fulfilled."""
    failed = record("str", 0.9, status="diverged")
    assert breached("drop > 1% at 0.9", *DENSE, failed) == {"str": "drop is not known: no run finished"}
    alone = breached("drop > 1% at 0.9", record("str", 0.9))
    assert alone == {"str": "drop is not known: no dense control shares a seed"}


def test_a_row_off_its_target_is_a_breach():
    """What was measured at another sparsity does not fulfil a bound at this one."""
    made = record("str", 0.9, top1=0.95, method__traits__hits_target=False)
    assert breached("drop > 1% at 0.9", *DENSE, made) == {"str": "it is off its target and measures 0.9"}


def test_a_bound_that_looks_at_nothing_is_refused():
    """A sparsity or method that no row has would let every build pass."""
    with pytest.raises(UsageError, match=r"there is none but controls at sparsity 0\.95"):
        breached("drop > 1% at 0.95", *DENSE, record("str", 0.9))
    with pytest.raises(UsageError, match=r"there is none of snip at sparsity 0\.9"):
        breached("drop > 1% at 0.9 for snip", *DENSE, record("str", 0.9))


def test_compare_ends_with_1_and_says_which_row(tmp_path):
    """The exit code is 1 where a bound is breached, 0 where it holds, 2 where it makes no sense; files are written."""
    for made in (*DENSE, record("str", 0.9, top1=0.9), record("gmp", 0.9, top1=0.949)):
        put(tmp_path, made)
    done = CliRunner().invoke(
        compare.command, [str(tmp_path), "--fail-if", "drop > 0.5% at 0.9"], standalone_mode=False
    )
    assert done.return_value == 1
    assert done.stderr == "breached: str at 0.9 on digits, resnet20_cifar, prune: drop 0.05 > 0.005 (n = 1)\n"
    assert (tmp_path / "leaderboard" / "leaderboard.json").exists()
    quiet = [str(tmp_path), "--format", "none"]
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.9"]) == 0
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.9", "--fail-if", "top1 < 0.91 at 0.9"]) == 1
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6 at 0.9"]) == 2
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.8"]) == 2


def test_an_ablation_is_no_method():
    """A row of an ablation, which is meant to be bad, is not looked at."""
    made = record("str", 0.9, top1=0.1, method__ablation="shuffled-mask")
    assert [t.applies_to(row) for t in [fail_if.parse("drop > 1% at 0.9")] for row in boards(made)[0].rows] == [False]
