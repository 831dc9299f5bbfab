"""Names chosen on the command line, such as formats and engines, and the optional packages they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruneboard.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class Choices:
    """The names that an option accepts.

    Attributes:
        kind: what a name stands for, in the singular; used in messages.
        names: every name, in the order in which they are processed.
        packages: name -> the packages it needs; all of them are part of `pruneboard[onnx]`.
    """

    kind: str
    names: tuple[str, ...]
    packages: Mapping[str, tuple[str, ...]]

    def parse(self, texts: Iterable[str]) -> tuple[str, ...] | None:
        """Return the names listed in `texts`, each once and in the order of `names`; None if `texts` is empty.

        Args:
            texts: values of a repeatable option; each is one name or several, separated by commas.

        Raises:
            UnknownNameError: a name does not exist.
            UsageError: a package that one of the names needs is not installed.
        """
        given = {name.strip() for text in texts for name in text.split(",")}
        for name in sorted(given - set(self.names)):
            raise UnknownNameError(self.kind, name, self.names)
        parsed = tuple(name for name in self.names if name in given)
        for name in parsed:
            self.check_packages(name)
        return parsed or None

    def check_packages(self, name: str) -> None:
        """Check that every package needed for `name` is installed.

        Raises:
            UsageError: a package is missing; the message gives the command that installs it.
        """
        missing = [package for package in self.packages.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UsageError(
                f"{self.kind} {name} needs {' and '.join(missing)}, not installed here: pip install 'pruneboard[onnx]'"
            )
