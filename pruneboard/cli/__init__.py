"""The command line: one module per command, its flags beside it. Nothing here imports torch until a command runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from pruneboard import __version__
from pruneboard.cli import (
    check,
    compare,
    completion,
    doctor,
    export,
    latency,
    listing,
    merge,
    new_plugin,
    run,
    show,
    status,
    sweep,
    verify,
)
from pruneboard.errors import PruneboardError, UsageError
from pruneboard.leaving import leave
from pruneboard.world import World

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pruneboard")
def cli() -> None:
    """Leaderboards for neural-network pruning: every pruner under identical training.

    \b
    pruneboard run --method probmask --model resnet18 --sparsity 0.9
    pruneboard compare results/

    Exit codes: 0 all good; 1 a run failed; 2 wrong usage; 3 a check failed; 4 no record found;
    75 interrupted, the same command goes on; 130 Ctrl-C.
    """


for module in (
    run,
    sweep,
    status,
    merge,
    compare,
    show,
    verify,
    export,
    latency,
    check,
    new_plugin,
    listing,
    doctor,
    completion,
):
    cli.add_command(module.command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Read when torch is loaded. Below an error its network code prints pages about what we say in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    leave(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors become one line on standard error."""
    try:
        code = cli.main(arguments, prog_name="pruneboard", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        _tell_others(arguments, UsageError(error.format_message()))
        return error.exit_code
    except PruneboardError as error:
        click.echo(f"error: {error}", err=True)
        _tell_others(arguments, error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns a KeyboardInterrupt, which says what was saved, into an Abort without a word.
        click.echo(str(error) or str(error.__cause__ or "") or "interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stdout = None
        return 0
    return code if isinstance(code, int) else 0


def _tell_others(arguments: list[str], error: PruneboardError) -> None:
    """Let the other processes of a run know why this one never came to it."""
    with suppress(PruneboardError):  # an environment that names no others
        world = World.current()
        if world.size > 1 and arguments[:1] == ["run"]:
            from pruneboard import peers

            peers.tell(error, world)
