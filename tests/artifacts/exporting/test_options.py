"""Formats need packages that an extra of pruneboard installs."""

from __future__ import annotations

import pytest

from project import text
from pruneboard.artifacts.exporting.options import FORMATS
from pruneboard.artifacts.latency.options import ENGINES

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib


@pytest.mark.parametrize("choices", [FORMATS, ENGINES], ids=lambda choices: choices.kind)
def test_the_onnx_extra_installs_every_optional_package(choices):
    """Each package that a format or an engine may lack is in `pruneboard[onnx]`, which the error message recommends."""
    extra = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]["onnx"]
    installed = {requirement.partition(">")[0] for requirement in extra}
    assert {package for packages in choices.packages.values() for package in packages} <= installed
    assert choices.packages.keys() <= set(choices.names)
