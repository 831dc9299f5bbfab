"""A node of a Ray cluster: it returns the run as it would be locally, and refuses runs that it would not reproduce."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import pruneboard
from pruneboard.errors import UnknownNameError, UsageError
from pruneboard.experiment import lifecycle
from pruneboard.records import schema, store
from pruneboard.sweeps.executors import ray_node
from ray_cases import remote_task
from runs import folder, tiny


def test_a_node_returns_the_same_run_as_a_local_execution(tmp_path):
    """A task needs no file of the sender, leaves no file on the node, and returns the same record, weights and mask."""
    recipe = tmp_path / "own.toml"
    shipped = Path(pruneboard.__file__).parent / "recipes" / "digits.toml"
    recipe.write_text(shipped.read_text().replace("default_for", "#"))
    spec = tiny(tmp_path / "here", recipe=str(recipe))
    task = remote_task(spec)
    expected = lifecycle.run(spec)
    recipe.unlink()
    try:
        result = ray_node.execute_task(task, 1)
    finally:
        ray_node._workers(1).stop()
    assert (result.status, result.message) == ("done", "")
    assert schema.canonical(json.loads(result.files[store.RUN])) == schema.canonical(expected)
    for name in (store.WEIGHTS, store.MASK):
        assert result.files[name] == (folder(tmp_path / "here") / name).read_bytes()
    assert not list(Path(tempfile.gettempdir()).glob(f"pruneboard-*/results/**/*{expected['hash'][:8]}"))


def test_a_node_with_different_code_refuses(tmp_path):
    """A node refuses a run if its code of the method differs from that of the sweep."""
    task = remote_task(tiny(tmp_path))
    other = task.code | {"code of the method": "0" * 12}
    result = ray_node.execute_task(replace(task, code=other), 1)
    assert result.status == "refused"
    assert "the code of the method on a node" in result.message


def test_a_node_without_the_method_refuses():
    """The code of a method that is not installed on the node cannot be compared, which is an error."""
    with pytest.raises(UnknownNameError, match="magnitud"):
        ray_node.code_digests("magnitud")


def test_a_node_with_different_data_refuses(tmp_path):
    """A node does not start a run whose content hash differs from that of the sweep."""
    with pytest.raises(UsageError, match="a different content hash on a node"):
        ray_node._work(remote_task(tiny(tmp_path), hash="0" * 64), print)


def test_a_node_without_cuda_refuses(tmp_path, monkeypatch):
    """A run that reserved a GPU is refused, not trained on the CPU, if torch finds no GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = tiny(tmp_path)
    with pytest.raises(UsageError, match="its torch finds none"):
        ray_node._work(replace(remote_task(spec), spec=replace(spec, device="cuda")), print)
