"""Trees of images in files."""

from __future__ import annotations

import pytest

from data_cases import LARGE, SMALL, write_tree


@pytest.fixture
def small(tmp_path):
    """A tree of images that are decoded into memory."""
    return write_tree(tmp_path / "small", SMALL)


@pytest.fixture
def large(tmp_path):
    """A tree of images that stream."""
    return write_tree(tmp_path / "large", LARGE)
