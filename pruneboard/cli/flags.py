"""Helpers for flags that several commands have: `--option KEY=VALUE`, and shell completion of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pruneboard import registry
from pruneboard.errors import UsageError

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """Parse the values of `--option KEY=VALUE` into the options of a method; hyphens in names become underscores.

    Raises:
        UsageError: a value is not of the form KEY=VALUE.
    """
    return dict(_key_value(text) for text in texts)


def _key_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--option takes KEY=VALUE, such as lr=0.01; found {text!r}")
    return name.strip().replace("-", "_"), value.strip()


def complete(names: Callable[[], list[str]]) -> Callable[..., list[CompletionItem]]:
    """Return a click callback that completes a word from `names`."""

    def matching(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        del ctx, param
        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]

    return matching


def method_names() -> list[str]:
    """Return the names of all installed methods."""
    return sorted({info.name for info in registry.installed() if not info.name_problem})
