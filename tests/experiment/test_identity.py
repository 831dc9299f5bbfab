"""The content hash: what it covers, and what it does not."""

from __future__ import annotations

import pytest

import runs
from pruneboard.training import compiling

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were captured; they run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", {"backend": backend})
    return found


def test_how_a_run_is_computed_is_no_part_of_what_it_is(graphs, tmp_path):
    """A run that was compiled is done: without `--compile` the same record is returned."""
    first = runs.run(tmp_path, model="tiny_tied", compile=True)
    again = runs.run(tmp_path, model="tiny_tied")
    assert again["hash"] == first["hash"]
    assert again["engine"]["compile"] is True
