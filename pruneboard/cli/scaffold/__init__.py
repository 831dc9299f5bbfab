"""A package of its own for a new method: written from `templates`, whole or not at all. Needs no torch."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from packaging.version import Version

from pruneboard import registry
from pruneboard.errors import UsageError, why
from pruneboard.records import provenance

LONGEST = 32
"""Characters of a method's name: with more, lines of the generated files would be too long for common formatters."""

TAKEN = frozenset({"Layer", "Mask", "MaskPruner", "Progress", "Sequence", "Tensor", "Track", "Traits"})
"""What the generated module imports under a name that a class could have."""

FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "src/{module}.py": "method.py.jinja",
    "tests/test_contract.py": "test_contract.py.jinja",
    ".github/workflows/test.yml": "workflow.yml.jinja",
    ".gitignore": "gitignore.jinja",
}
"""Path in the package -> template it is made from."""


def create(name: str, parent: Path) -> Path:
    """Write the package of a new method into `parent`, and return its folder, `pruneboard-NAME`.

    Args:
        name: of the method on the command line: lowercase letters, digits and hyphens, the first a letter.
        parent: a folder that exists.

    Raises:
        UsageError: a name that is not allowed or that an installed method has, a folder that exists already,
            or one that cannot be written; nothing is left behind.
    """
    check_name(name)
    folder = parent / f"pruneboard-{name}"
    if os.path.lexists(folder):
        raise UsageError(f"{folder} is already there, and nothing is overwritten: choose another name or --path")
    _write(folder, files(name))
    return folder


def check_name(name: str) -> None:
    """Refuse what cannot be a new method's name.

    Raises:
        UsageError: it breaks the rule, or an installed method has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise UsageError(
            f"a method's name is lowercase letters, digits and single hyphens, begins with a letter, and has at most "
            f"{LONGEST} characters, such as soft-threshold; found {name!r}"
        )
    for info in registry.installed():
        if info.name == name:
            raise UsageError(
                f"method {name!r} is installed already, from {info.distribution} {info.version}: choose another name"
            )


def files(name: str) -> dict[str, str]:
    """Return the files of a new method's package: path within it -> content."""
    import jinja2

    module = f"pruneboard_{name.replace('-', '_')}"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=False,  # noqa: S701 - nothing here is HTML
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    values = {"name": name, "module": module, "cls": class_name(name), "version": _release()}
    return {
        path.format(module=module): environment.get_template(template).render(values)
        for path, template in FILES.items()
    }


def class_name(name: str) -> str:
    """Return the class of a method: `soft-threshold` is `SoftThreshold`; no name that the module already uses."""
    camel = "".join(word.capitalize() for word in name.split("-"))
    return f"{camel}Method" if camel in TAKEN or hasattr(builtins, camel) else camel


def _template(name: str) -> str:
    return (resources.files("pruneboard.cli.scaffold") / "templates" / name).read_text(encoding="utf-8")


def _release() -> str:
    """Return the oldest pruneboard that the package is for: this one, without a part that no index would compare."""
    return Version(provenance.version_of("pruneboard") or "0").public


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write the files beside `folder`, then rename: a reader sees all of them or none."""
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        for path, text in contents.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {why(error)}; --path names a folder that can be written") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
