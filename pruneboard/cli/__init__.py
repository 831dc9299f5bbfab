"""The command line: one module per command, which also declares its flags.

The module of a command is imported only when the command is used, and torch only when it runs, so that `--help` takes a
tenth of a second.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

import click

import pruneboard
from pruneboard.errors import PruneboardError, RunError, UsageError, on_one_line, why
from pruneboard.processes import output
from pruneboard.processes.process_exit import exit_process
from pruneboard.processes.world import World

INTERRUPTED = 130
OUTPUT_LOST = 1
"""Exit code of a command that succeeded but could not print its result."""

RESULT_IN_FILES = ("run", "sweep")
"""Commands whose result is in the records that they write, and whose exit code does not depend on what is printed."""

WATCHED = ("check", "run")
"""Commands that execute a method in their own process; another process watches it (`pruneboard.cli.watching`)."""

HELP = ("--help", "-h")

NEED_TORCH = ("check", "export", "latency", "run", "sweep", "verify")
"""Commands that import torch, unless their arguments are refused."""

COMMANDS = {
    "check": ("check", "Check a pruner against the rules of the board."),
    "compare": ("compare", "Compare all records below one or more results folders."),
    "completion": ("completion", "Print the completion script of SHELL."),
    "doctor": ("doctor", "Check this machine and the installation, and report problems."),
    "export": ("export", "Export a finished run: its folder, or its run.json."),
    "latency": ("latency", "Time a finished run's network on this machine: its folder, or its run.json."),
    "list": ("listing", "List methods (the default), recipes, datasets or models."),
    "merge": ("merge", "Copy the runs of other results folders into one."),
    "new-plugin": ("new_plugin", "Write a small package with a new method, which works without changes."),
    "run": ("run", "Train with a pruner, and record the result."),
    "show": ("show", "Show one run, given by its folder or its run.json."),
    "status": (
        "status",
        "Show the progress of the sweeps in DIR: finished, active and failed runs, and the estimated remaining time.",
    ),
    "sweep": ("sweep", "Execute the missing runs of a board and write its leaderboard."),
    "verify": ("verify", "Verify one run, or every run below some folders."),
}
"""Command -> the module that defines it as `command`, and the first sentence of its help."""


def _show_version(ctx: click.Context) -> None:
    click.echo(f"pruneboard, version {pruneboard.__version__}")
    ctx.exit()


def load_command(name: str) -> click.Command:
    """Import and return one of `COMMANDS`."""
    command: click.Command = import_module(f"{__name__}.{COMMANDS[name][0]}").command
    return command


class Program(click.Group):
    """A group that imports the module of a command when the command is used, but not to list the commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name, or None."""
        del ctx
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help."""
        named = {name: click.Command(name, help=sentence) for name, (_, sentence) in COMMANDS.items()}
        click.Group(commands=named).format_commands(ctx, formatter)


@click.group(cls=Program, context_settings={"help_option_names": HELP, "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, _, given: _show_version(ctx) if given and not ctx.resilient_parsing else None,
    help="Show the version and exit.",
)
def cli() -> None:
    """Leaderboards for neural-network pruning: every pruner under identical training.

    \b
    pruneboard run --method probmask --model resnet18 --sparsity 0.9
    pruneboard compare results/

    Exit codes: 0 success; 1 a run failed; 2 wrong usage; 3 a check failed; 4 no record found;
    75 interrupted, run the same command again to resume; 130 Ctrl-C.
    """


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # torch reads this when it is imported. Its network code would log pages about errors that we report in one line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    output.protect()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in WATCHED:
        exit_process(_invoke_and_flush(arguments))
    from pruneboard.cli import watching
    from pruneboard.processes import guardian

    on_loss = watching.HANDLERS[arguments[0]]
    exit_process(guardian.watch(lambda: _invoke_and_flush(arguments), lambda loss: on_loss(loss, arguments)))


def _invoke_and_flush(arguments: list[str]) -> int:
    """Run one command and return its exit code; a command whose result is its output fails if that is lost."""
    code = invoke(arguments)
    sys.stdout.flush()
    if output.stdout_failed() and arguments[:1] not in [[name] for name in RESULT_IN_FILES]:
        code = code or OUTPUT_LOST
    return code


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; print an error as one line on standard error."""
    try:
        _check_limits(arguments)
        code = cli.main(arguments, prog_name="pruneboard", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        _notify_others(arguments, UsageError(error.format_message()))
        return error.exit_code
    except PruneboardError as error:
        click.echo(f"error: {on_one_line(error)}", err=True)
        _notify_others(arguments, error)
        return error.exit_code
    except MemoryError as error:  # before a run starts: later it is recorded
        click.echo(f"error: out of memory: {on_one_line(error)}", err=True)
        return RunError.exit_code
    except OSError as error:  # of a path that cannot even be looked up: its name is too long, or its folder is closed
        refused = UsageError(": ".join(str(part) for part in (error.filename, why(error)) if part))
        click.echo(f"error: {on_one_line(refused)}", err=True)
        _notify_others(arguments, refused)
        return refused.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click replaces a KeyboardInterrupt, whose message says what was saved, by an Abort without a message.
        click.echo(str(error) or str(error.__cause__ or "") or "interrupted", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _check_limits(arguments: list[str]) -> None:
    """Refuse a command that a library would end with a message of its own, except help and `doctor`."""
    name = next(iter(arguments), "doctor")
    if name not in COMMANDS or name == "doctor" or set(arguments) & set(HELP):
        return
    from pruneboard.cli import limits

    limits.check_working_folder()
    if name in NEED_TORCH:
        limits.check_memory(limits.TORCH, "raise it, or remove it with ulimit -v unlimited")


def _notify_others(arguments: list[str], error: PruneboardError) -> None:
    """Send the error to the other processes of a distributed run, which would otherwise wait for this one."""
    with suppress(PruneboardError):  # the environment variables of the launcher are invalid
        world = World.current()
        if world.size > 1 and arguments[:1] == ["run"]:
            from pruneboard.processes import rendezvous

            rendezvous.report_early_failure(error, world)
