"""`pruneboard completion`: print the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash:  eval "$(pruneboard completion bash)"      in ~/.bashrc
    zsh:   eval "$(pruneboard completion zsh)"       in ~/.zshrc
    fish:  pruneboard completion fish | source       in ~/.config/fish/config.fish
    """
    root = click.get_current_context().find_root().command
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(root, {}, "pruneboard", "_PRUNEBOARD_COMPLETE").source())
