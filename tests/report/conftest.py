"""Fixtures of the tests of reports."""

from __future__ import annotations

import pytest

from leaderboard_cases import rich


@pytest.fixture(scope="session")
def everything():
    """Return a leaderboard with everything that a page can show."""
    return rich()
