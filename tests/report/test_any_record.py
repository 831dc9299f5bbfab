"""Tests that every report can print every valid record."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fake_records import change, record
from pruneboard.errors import PruneboardError
from pruneboard.records import fields
from pruneboard.records import schema as records
from report_cases import every_report

JSON_VALUES = st.recursive(  # what the store lets through: JSON without NaN
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


PATHS = sorted({*fields.FIELDS, "board.steps", "board.recipe", "seeds.init", "metrics.best_validation.epoch"})


def is_valid(made):
    """Return whether a record passes validation."""
    try:
        return bool(records.validate(made))
    except PruneboardError:
        return False


@given(path=st.sampled_from(PATHS), value=JSON_VALUES, status=st.sampled_from(["done", "failed"]))
@settings(deadline=None, max_examples=80)
def test_every_valid_record_can_be_printed(path, value, status):
    """Any value that passes validation, anywhere in a record, can be printed by every report."""
    made = record(status=status)
    change(made, path, value)
    if path.startswith("board."):
        made["board"]["fingerprint"] = records.fingerprint(made["board"])
    assume(is_valid(made))
    for text in every_report([made, record("dense", None), record(seed=1)]):
        text.encode()
