"""`pruneboard check`: the table, the JSON document, the exit codes and refused arguments."""

from __future__ import annotations

import json
import textwrap

import pytest

from pruneboard.cli import invoke

FAULTY = """
    from dataclasses import dataclass

    from pruneboard.api import MaskPruner
    from pruneboard.scores import set_masks, top_k_per_layer

    @dataclass(frozen=True, kw_only=True)
    class Off(MaskPruner):
        '''Keeps one position too many (arXiv:0000.00000).'''

        def before_step(self, layers, at):
            if at.step == at.harden_step:
                keep = [layer.keep + (layer.index == 0) for layer in layers]
                set_masks(layers, top_k_per_layer([layer.dense.abs() for layer in layers], keep))
"""
BROKEN = "hits-the-target"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, which contains a module with a faulty pruner."""
    (tmp_path / "off_by_one.py").write_text(textwrap.dedent(FAULTY), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # so that it is undone; the command adds the folder itself
    return tmp_path


def test_a_broken_rule_exits_with_3_and_says_what_was_found(here, capsys):
    """A class in the current folder is checked without installation; each failure is printed with what was found."""
    assert invoke(["check", "off_by_one:Off"]) == 3
    out, err = capsys.readouterr()
    lines = out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.split()[1:3] == [BROKEN, "FAILED"])
    assert "positions where the budget is" in lines[at + 1]
    assert lines[at + 2].strip().startswith("rule:  Of n prunable weights, exactly")
    assert err.startswith("error: Off breaks ")
    assert BROKEN in err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_an_expected_failure_does_not_count(here, capsys):
    """With a reason for each check that fails, the command exits with 0 and counts them as expected."""
    invoke(["check", "off_by_one:Off", "--json"])
    first = json.loads(capsys.readouterr().out)
    failed = [row["check"] for row in first["checks"] if row["tier"] == "core" and row["outcome"] == "failed"]
    assert BROKEN in failed
    accepted = [flag for name in failed for flag in ("--expect", f"{name}=off by one on purpose")]
    assert invoke(["check", "off_by_one:Off", "--json", *accepted]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["counts"]["expected"] == len(failed)
    assert again["object"] == "off_by_one:Off"


def test_the_rules_are_printed_without_running_the_checks(capsys):
    """`--rules` lists the checks that apply, with their tier and rule."""
    assert invoke(["check", "edge-popup", "--rules", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "frozen-weights-stay-frozen" in {row["check"] for row in rows}
    assert {row["tier"] for row in rows} == {"core", "advice"}
    assert invoke(["check", "magnitude", "--rules"]) == 0
    assert "frozen-weights-stay-frozen" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["magnitud"], "unknown method 'magnitud': did you mean magnitude?"),
        (["nowhere:Thing"], "No module named 'nowhere'"),
        (["my-module:Thing"], "a class is given as MODULE:CLASS, such as my_pruner:Mine; found 'my-module:Thing'"),
        (["magnitude", "--sparsity", "90"], "sparsity must be a fraction of zeros in [0, 1); found"),
        (["magnitude", "-o", "prune_at=2"], "prune_at must be a fraction of the step budget"),
        (["magnitude", "--expect", "hits-the-target"], "--expect takes CHECK=REASON"),
        (["magnitude", "--expect", "hits-target=why"], "unknown check 'hits-target': did you mean hits-the-target"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(arguments, expected, capsys):
    """Unknown names, invalid options and missing reasons exit with 2 before any check runs."""
    assert invoke(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert err.count("\n") == 1
    assert "passed" not in out
