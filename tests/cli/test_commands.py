"""The command line as a whole: the list of commands, help without imports, and missing records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from command_cases import RUN
from pruneboard import cli as cli_package
from pruneboard.cli import COMMANDS, invoke, load_command
from runs import folder


def test_show_prints_a_run_and_a_missing_record_exits_with_4(capfd, tmp_path):
    """`show` prints the page of a run; `compare` and `show` exit with 4 if there is no record."""
    assert invoke([*RUN, "--results", str(tmp_path / "r")]) == 0
    assert invoke(["show", str(folder(tmp_path / "r"))]) == 0
    assert "conv1" in capfd.readouterr().out
    assert invoke(["compare", str(tmp_path / "nothing")]) == 4
    assert invoke(["show", str(tmp_path)]) == 4


def test_version_and_help(capfd):
    """`--version` prints the installed version, `--help` the commands."""
    assert invoke(["--version"]) == 0
    assert "pruneboard" in capfd.readouterr().out
    assert invoke(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in ("run", "compare", "list", "show", "doctor", "completion"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_equals_the_help_of_each(name):
    """`--help`, which imports no command, shows the first sentence of the help of every command."""
    command = load_command(name)
    assert command.name == name
    listed = click.Command(name, help=COMMANDS[name][1])
    assert [listed.get_short_help_str(limit) for limit in (30, 60, 500)] == [
        command.get_short_help_str(limit) for limit in (30, 60, 500)
    ]


def test_every_module_with_a_command_is_listed():
    """Every command is in the table from which `--help` is generated."""
    folder = Path(cli_package.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "@click.command(" in path.read_text(encoding="utf-8")}
    assert found == {module for module, _ in COMMANDS.values()}


def test_help_imports_no_command():
    """`pruneboard --help` imports neither rich nor the module of a command."""
    code = "import sys; from pruneboard.cli import invoke; invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "numpy", "pruneboard.cli.run", "pruneboard.report"} & set(done.stderr.split())
