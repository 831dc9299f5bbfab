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

LONG = "a" * 300


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


@pytest.mark.parametrize(
    "arguments",
    [
        *(["show", LONG], ["compare", LONG], ["verify", LONG], ["status", LONG], ["merge", LONG, "--into", "x"]),
        *(["sweep", f"{LONG}.toml"], [*RUN, "--results", LONG], [*RUN, "--recipe", f"{LONG}.toml"]),
        [*RUN, "--config", f"{LONG}.toml"],
        [*RUN, "--dataset", "folder", "--data-dir", LONG],
    ],
    ids=lambda arguments: arguments[0] + arguments[-2],
)
def test_a_path_that_the_system_refuses_is_an_error_in_one_line(tmp_path, monkeypatch, capfd, arguments):
    """A name that is too long is refused by the system itself, and named with its reason."""
    monkeypatch.chdir(tmp_path)
    assert invoke(arguments) in (2, 4)
    err = capfd.readouterr().err
    assert err.count("File name too long") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_control_characters_in_a_name_are_escaped(tmp_path, capfd):
    """A path with a line break and an escape sequence is one line, and leaves the terminal alone."""
    assert invoke(["compare", str(tmp_path / "a\nb\x1b[31mé")]) == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert r"a\nb\x1b[31mé" in line
