"""Fixtures that several test modules share."""

from __future__ import annotations

import sys

import pytest

from distributions import Site


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder at the front of `sys.path`; modules imported from it are unloaded afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if name.startswith("stranger_"):
            del sys.modules[name]
