"""Options for a Ray cluster: contradictions and impossible values are refused before anything is executed."""

from __future__ import annotations

import re
import sys

import pytest

from board_file_cases import FEW, write_board
from pruneboard.cli import cluster_options, invoke, load_command


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Write a board file."""
    return write_board(tmp_path_factory.mktemp("board"), FEW)


def refusal(capsys, board, *flags):
    """Start a sweep on a cluster that is refused; return its message, which is one line."""
    assert invoke(["sweep", str(board), "--executor", "ray", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_a_missing_ray_is_reported_with_its_package(board, capsys, monkeypatch):
    """If Ray is not installed, the message says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'pruneboard[ray]'" in refusal(capsys, board)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cpus-per-run", "-1"], "0 or more; found -1"),
        (["--cpus-per-run", "nan"], "0 or more; found nan"),
        (["--gpus-per-run", "2"], r"in \[0, 1\].*found 2"),
        (["--cpus-per-run", "0"], "must reserve something"),
        (["--jobs", "2"], "--jobs applies to a single machine"),
        (["--procs", "2"], "--procs applies to a single machine"),
        (["--device", "cuda"], "--device applies to a single machine"),
        (["--dry-run"], "remove --executor ray"),
        (["--plan-only"], "remove --executor ray"),
    ],
    ids=" ".join,
)
def test_options_that_have_no_meaning_on_a_cluster_are_refused(board, capsys, flags, message):
    """Impossible reservations and options for a single machine are refused with the name of the option."""
    assert re.search(message, refusal(capsys, board, *flags))


@pytest.mark.parametrize("flag", ["--cpus-per-run", "--gpus-per-run"])
def test_a_reservation_requires_a_cluster(board, capsys, flag):
    """A reservation without `--executor ray` is refused, not ignored."""
    assert invoke(["sweep", str(board), flag, "0.5"]) == 2
    assert f"{flag} requires --executor ray" in capsys.readouterr().err


def test_the_default_values_are_those_of_the_command():
    """The tables of default values agree with the options of the command."""
    defaults = {option.name: option.default for option in load_command("sweep").params}
    table = cluster_options.LOCAL_DEFAULTS | cluster_options.CLUSTER_DEFAULTS
    assert {name: defaults[name] for name in table} == table
