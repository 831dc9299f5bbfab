"""The default options of a measurement are those that docs/latency.md describes."""

from __future__ import annotations

from project import text
from pruneboard.artifacts.latency.options import DENSE, ENGINES, REFERENCE, LatencyOptions
from pruneboard.cli.latency import command


def test_the_page_lists_the_engines():
    """The table in docs/latency.md has every engine, in the same order, and states which skip no zeros."""
    rows = [line.split(" | ") for line in text("docs/latency.md").splitlines() if line.startswith("| `")]
    rows = [row for row in rows if row[0].strip("| `") in ENGINES.names]
    rows = rows[: len(ENGINES.names)]
    assert [row[0].strip("| `") for row in rows] == list(ENGINES.names)
    assert tuple(row[0].strip("| `") for row in rows if row[2] == "no") == DENSE
    assert ENGINES.names[0] == REFERENCE


def test_the_command_has_the_same_defaults():
    """The options of `pruneboard latency` and of `LatencyOptions` have equal defaults."""
    defaults = {parameter.name: parameter.default for parameter in command.params}
    options = LatencyOptions()
    for name in ("batches", "threads", "seconds", "warmup", "device"):
        assert defaults[name] == getattr(options, name), name
