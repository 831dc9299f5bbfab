"""Writes the package of a new method from `templates`, either completely or not at all. Needs no torch."""

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

MAX_NAME_LENGTH = 32
"""With longer names, lines of the generated files would be too long for common formatters."""

RESERVED = frozenset({"Layer", "Mask", "MaskPruner", "Progress", "Sequence", "Tensor", "Track", "Traits"})
"""Imported names of the generated module that the generated class must not have."""

FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "src/{module}.py": "method.py.jinja",
    "tests/test_contract.py": "test_contract.py.jinja",
    ".github/workflows/test.yml": "workflow.yml.jinja",
    ".gitignore": "gitignore.jinja",
}
"""Path in the package -> its template."""


def create(name: str, parent: Path) -> Path:
    """Write the package of a new method to `pruneboard-NAME` in `parent`, and return this folder.

    Args:
        name: name of the method: lowercase letters, digits and hyphens, starting with a letter.
        parent: an existing folder.

    Raises:
        UsageError: the name is invalid or belongs to an installed method, or the folder exists or cannot be written.
            Nothing is left behind.
    """
    check_name(name)
    folder = parent / f"pruneboard-{name}"
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists, and nothing is overwritten: choose another name or --path")
    _write(folder, files(name))
    return folder


def check_name(name: str) -> None:
    """Check the name of a new method.

    Raises:
        UsageError: the name is invalid, or an installed method has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"a method's name has lowercase letters, digits and single hyphens, starts with a letter, and has at most "
            f"{MAX_NAME_LENGTH} characters, such as soft-threshold; found {name!r}"
        )
    for info in registry.installed():
        if info.name == name:
            raise UsageError(
                f"method {name!r} is installed already, from {info.distribution} {info.version}: choose another name"
            )


def files(name: str) -> dict[str, str]:
    """Return the files of a new method's package: path in the package -> content."""
    import jinja2

    module = f"pruneboard_{name.replace('-', '_')}"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=False,  # noqa: S701 - no template is HTML
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    values = {"name": name, "module": module, "cls": class_name(name), "version": _minimum_version()}
    return {
        path.format(module=module): environment.get_template(template).render(values)
        for path, template in FILES.items()
    }


def class_name(name: str) -> str:
    """Return the class name of a method, such as `SoftThreshold` for `soft-threshold`; avoids names in use."""
    camel = "".join(word.capitalize() for word in name.split("-"))
    return f"{camel}Method" if camel in RESERVED or hasattr(builtins, camel) else camel


def _template(name: str) -> str:
    return (resources.files("pruneboard.cli.scaffold") / "templates" / name).read_text(encoding="utf-8")


def _minimum_version() -> str:
    """Return the oldest supported pruneboard: this version, without its local part, which cannot be used with >=."""
    return Version(provenance.version_of("pruneboard") or "0").public


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write the files to a temporary folder next to `folder` and rename it, so that all files appear at once."""
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        for path, text in contents.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {why(error)}; choose another folder with --path") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
