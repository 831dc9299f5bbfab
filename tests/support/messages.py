"""The one-line message of an error that a call raises."""

from __future__ import annotations

import pytest

from pruneboard.errors import PruneboardError, UsageError


def message(call, kind: type[PruneboardError] = UsageError) -> str:
    """Return the message of the error that `call` raises: an error of exactly that class, in one line."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)
