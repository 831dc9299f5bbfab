"""Tests `--fail-if`: parsing of conditions, the rows to which they apply, and the exit code."""

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
    """Return the boards of some records."""
    return leaderboard.build_boards(made)


def failing(text, *made):
    """Return method -> reason for the rows that fail a condition."""
    return {row.method: reason for _, row, reason in failing_rows(parse(text), boards(*made))}


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
def test_conditions_are_parsed(text, meaning):
    """A limit is a fraction or a percentage, of one quantity at one sparsity, for all methods or one."""
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop > 0.5 percent at 0.9", "found 'drop > 0.5 percent at 0.9'"),
        ("drop > 5 at 0.9", "for percent write 5%"),
        ("drop > 1 at 0.9", "for percent write 1%"),
        ("drop > nan at 0.9", "nan is not a number"),
        ("drop > 0.1 at 90", r"the sparsity must be a fraction in \[0, 1\); found 90"),
        ("drop > 0.1 at 90%", "90% is not a number"),
        ("loss > 0.1 at 0.9", "with drop or top1"),
        ("drop == 0.1 at 0.9", "--fail-if must be "),
        ("drop > 0.1", "--fail-if must be "),
        ("", "--fail-if must be "),
    ],
)
def test_ambiguous_conditions_are_rejected(text, message):
    """A plain number of 1 or more, another form, and invalid numbers are rejected with a hint."""
    with pytest.raises(UsageError, match=message):
        parse(text)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_a_condition_or_a_usage_error(text):
    """Arbitrary text raises nothing but a usage error."""
    with contextlib.suppress(UsageError):
        parse(text)


DENSE = [record("dense", None, seed=s, top1=0.95) for s in range(2)]


def test_conditions_apply_to_controls_only_by_name():
    """The random control would fail any condition, so controls are only checked if they are named."""
    made = [*DENSE, *(record(name, 0.9, seed=s, top1=0.5) for name in ("random", "magnitude", "str") for s in (0, 1))]
    assert failing("drop > 1% at 0.9", *made) == {"str": "drop 0.45 > 0.01 (n = 2)"}
    assert failing("drop > 1% at 0.9 for random", *made) == {"random": "drop 0.45 > 0.01 (n = 2)"}


def test_equality_depends_on_the_sign():
    """A drop that equals the limit satisfies >= but not >."""
    made = [record("dense", None, top1=0.75), record("str", 0.9, top1=0.5)]
    assert failing("drop > 0.25 at 0.9", *made) == {}
    assert failing("drop >= 0.25 at 0.9", *made) == {"str": "drop 0.25 >= 0.25 (n = 1)"}


def test_unknown_values_fail():
    """A failed run and a drop without a dense control do not pass."""
    failed = record("str", 0.9, status="diverged")
    assert failing("drop > 1% at 0.9", *DENSE, failed) == {"str": "drop is unknown: no run finished"}
    alone = failing("drop > 1% at 0.9", record("str", 0.9))
    assert alone == {"str": "drop is unknown: no dense control shares a seed"}


def test_a_row_off_target_fails():
    """A value at another sparsity does not pass."""
    made = record("str", 0.9, top1=0.95, method__traits__hits_target=False)
    assert failing("drop > 1% at 0.9", *DENSE, made) == {"str": "off target, with measured sparsity 0.9"}


def test_a_condition_without_rows_is_rejected():
    """With a sparsity or method that no row has, the condition could never fail."""
    with pytest.raises(UsageError, match=r"there is no row of any method except controls at sparsity 0\.95"):
        failing("drop > 1% at 0.95", *DENSE, record("str", 0.9))
    with pytest.raises(UsageError, match=r"there is no row of snip at sparsity 0\.9"):
        failing("drop > 1% at 0.9 for snip", *DENSE, record("str", 0.9))


def test_the_exit_code_follows_the_condition(tmp_path):
    """It is 1 if a condition holds, 0 if not, and 2 if it is invalid; the files are written in any case."""
    for made in (*DENSE, record("str", 0.9, top1=0.9), record("gmp", 0.9, top1=0.949)):
        put(tmp_path, made)
    done = CliRunner().invoke(
        compare.command, [str(tmp_path), "--fail-if", "drop > 0.5% at 0.9"], standalone_mode=False
    )
    assert done.return_value == 1
    assert done.stderr == "--fail-if: str at 0.9 on digits, resnet20_cifar, prune: drop 0.05 > 0.005 (n = 1)\n"
    assert (tmp_path / "leaderboard" / "leaderboard.json").exists()
    quiet = [str(tmp_path), "--format", "none"]
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.9"]) == 0
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.9", "--fail-if", "top1 < 0.91 at 0.9"]) == 1
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6 at 0.9"]) == 2
    assert invoke(["compare", *quiet, "--fail-if", "drop > 6% at 0.8"]) == 2


def test_conditions_do_not_apply_to_ablations():
    """The rows of ablations are expected to be bad."""
    made = record("str", 0.9, top1=0.1, method__ablation="shuffled-mask")
    condition = fail_if.parse("drop > 1% at 0.9")
    assert [condition.applies_to(row) for row in boards(made)[0].rows] == [False]
