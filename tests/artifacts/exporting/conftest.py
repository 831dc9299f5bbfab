"""Exported runs that the tests of exports share."""

from __future__ import annotations

import functools

import pytest

from export_cases import exported_run
from pruneboard.artifacts import finished_run


@pytest.fixture(scope="session")
def export_of(tmp_path_factory):
    """A function from a network's name to the folder of an exported run, created on first use; do not change it."""
    return functools.cache(lambda name: exported_run(name, tmp_path_factory.mktemp("results")))


@pytest.fixture(
    params=["test_resnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("test_vit", "resnet8_cifar"))]
)
def exported(request, export_of):
    """The folder of a run pruned to 0.8 that learned something, exported in every format; it must not be changed."""
    return export_of(request.param)


@pytest.fixture
def loaded(export_of):
    """The run of test_resnet, loaded as an export loads it."""
    return finished_run.load(*finished_run.find(export_of("test_resnet"), "exported"), "exported")
