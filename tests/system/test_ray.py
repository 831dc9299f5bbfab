"""A sweep on a Ray cluster of two nodes on this machine, compared with a local sweep of the same board."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import pruneboard
import two_nodes
from board_file_cases import FEW, write_board
from distributions import Site
from pruneboard.cli import INTERRUPTED
from pruneboard.records import schema
from runs import folder

pytestmark = pytest.mark.ray

BOARD = FEW | {
    "training": {"epochs": 2, "batch_size": 32, "image_size": 16, "warmup_epochs": 0},
    "tracks": {"prune": {"sparsities": [0.5]}, "supermask": {"sparsities": [0.5]}},
    "methods": [
        {"name": "dense", "tracks": ["prune"]},
        *({"name": name} for name in ("magnitude", "edge-popup", "waiting", "failing")),
    ],
}
"""A board of a few seconds, with two methods of the tests: `waiting` and `failing`."""

METHODS = """
    import os
    import time
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner
    from pruneboard.scores import importance, select, set_masks

    @dataclass(frozen=True, kw_only=True)
    class Waiting(MaskPruner):
        def before_step(self, layers, at):
            while os.path.exists(os.environ["HOLD"]):
                time.sleep(0.05)
            set_masks(layers, select(layers, importance([layer.dense for layer in layers], "global"), "global"))

    @dataclass(frozen=True, kw_only=True)
    class Failing(MaskPruner):
        def before_step(self, layers, at):
            raise RuntimeError("no more")
"""

TIMEOUT = 300
"""Seconds after which a command counts as stuck; on an idle machine everything here takes a few seconds."""


class Nodes:
    """A cluster of two nodes in a separate process, as a context manager.

    Args:
        place: folder for files of the test.
        path: `PYTHONPATH` of the second node, if it is not that of the first.
    """

    def __init__(self, place, *path):
        self.path = path
        site = place / "site"
        site.mkdir()
        points = "[pruneboard.pruners]\nwaiting = stranger_two:Waiting\nfailing = stranger_two:Failing\n"
        Site(site).add("stranger-two", METHODS, module="stranger_two", points=points)
        self.hold = place / "hold"
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"HOLD": str(self.hold), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more
        self.place = Path(tempfile.mkdtemp(prefix="two"))  # a short path: Ray puts sockets in it

    def __enter__(self):
        script = Path(two_nodes.__file__)
        self.errors = (self.place / "errors").open("w")
        self.process = subprocess.Popen(
            [sys.executable, script, self.place, *self.path],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, (self.place / "errors").read_text()
        return self

    def __exit__(self, *error):
        self.release()
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.place)

    def kill_the_other(self):
        """Kill the node that the sweep is not connected to, as a power failure would."""
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"

    def hold_runs(self):
        """Let runs of the method `waiting` wait from now on."""
        self.hold.touch()

    def release(self):
        """Let waiting runs continue."""
        self.hold.unlink(missing_ok=True)

    def active(self):
        """Return the names of the nodes on which a run has its folder."""
        return {name for name in ("head", "other") if list((self.place / name).glob("pruneboard-*/results/**/.lock"))}

    def sweep(self, board, results, *flags, executor="ray"):
        """Start `pruneboard sweep`."""
        command = [sys.executable, "-m", "pruneboard", "sweep", board, "--results", results, "--executor", executor]
        return subprocess.Popen(
            [*map(str, command), *flags],
            env=self.environment | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Write the board file."""
    return write_board(tmp_path_factory.mktemp("board"), BOARD, "tiny")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Start two nodes for several tests."""
    with Nodes(tmp_path_factory.mktemp("nodes")) as started:
        yield started


@pytest.fixture(scope="module")
def local(nodes, board, tmp_path_factory):
    """Return the records of a local sweep of the board."""
    results = tmp_path_factory.mktemp("local")
    finish(nodes.sweep(board, results, "--jobs", "2", executor="local"), 1)
    return canonical_records(results)


def finish(process, code):
    """Wait for a command, which must end with this exit code; return its standard output and standard error."""
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, err
    return out, err


def canonical_records(results):
    """Return hash -> reproducible part of the record, for all records below a folder."""
    made = [json.loads(path.read_text()) for path in Path(results).rglob("run.json")]
    return {one["hash"]: schema.canonical(one) for one in made}


def only(records, method):
    """Return the records of one method."""
    return {key: one for key, one in records.items() if one["method"]["name"] == method}


def wait_until(condition, process):
    """Wait for a condition while a command runs."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_board_has_the_same_records_on_a_cluster(nodes, board, local, tmp_path):
    """Two nodes produce the records of the local executor, failures included, and only the leaderboard is printed."""
    out, _ = finish(nodes.sweep(board, tmp_path, "--json"), 1)
    assert canonical_records(tmp_path) == local
    assert {one["status"] for one in only(local, "failing").values()} == {"failed"}
    assert {one["status"] for key, one in local.items() if key not in only(local, "failing")} == {"done"}
    assert json.loads(out)
    assert nodes.active() == set()


def test_runs_are_returned_with_their_files(nodes, board, local, tmp_path):
    """The folder of a finished run contains the same files as after a local run, and no others."""
    finish(nodes.sweep(board, tmp_path, "--only", "magnitude", "--seeds", "1"), 0)
    names = {path.name for path in folder(tmp_path).iterdir()}
    assert names == {"run.json", "metrics.jsonl", "log.txt", "mask.npz", "model.safetensors"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 75)])
def test_a_stopped_sweep_is_completed_by_the_same_command(nodes, board, local, tmp_path, number, code):
    """Ctrl-C and SIGTERM end with their exit codes and cancel the active runs; the cluster stays usable."""
    nodes.hold_runs()
    process = nodes.sweep(board, tmp_path, "--only", "waiting")
    wait_until(lambda: nodes.active() == {"head", "other"}, process)
    process.send_signal(number)
    nodes.release()
    _, err = finish(process, code)
    message = "active runs will start from the beginning: run the same command again"
    assert number == signal.SIGINT or message in err
    assert nodes.active() == set()
    finish(nodes.sweep(board, tmp_path, "--only", "waiting"), 0)
    assert canonical_records(tmp_path) == only(local, "waiting")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("# one line more\n", "has different pruneboard code"),
        ("raise ImportError('no torch')\n", "cannot import pruneboard"),
    ],
    ids=["other code", "broken"],
)
def test_a_node_with_other_code_is_named_before_anything_runs(board, tmp_path, monkeypatch, added, message):
    """A sweep is refused if a node has different code of pruneboard, or cannot import it."""
    monkeypatch.chdir(tmp_path)  # Ray adds the current folder to the path of its processes
    copy = shutil.copytree(Path(pruneboard.__file__).parent, tmp_path / "copy" / "pruneboard")
    with (copy / "sweeps" / "executors" / "ray_node.py").open("a") as file:
        file.write(added)
    with Nodes(tmp_path, os.pathsep.join([str(copy.parent), os.environ.get("PYTHONPATH", "")])) as nodes:
        _, err = finish(nodes.sweep(board, tmp_path / "results", "--only", "dense"), 2)
    assert re.search(rf"(?m)^error: node [\d.]+ of the cluster {message}.*: install the same version", err)
    assert not list(tmp_path.glob("results/**/run.json"))


def test_the_runs_of_a_lost_node_are_executed_elsewhere(nodes, board, local, tmp_path):
    """If a node dies, its runs are executed on another node with the same results."""
    nodes.hold_runs()
    process = nodes.sweep(board, tmp_path, "--only", "waiting")
    wait_until(lambda: nodes.active() == {"head", "other"}, process)
    nodes.kill_the_other()
    nodes.release()
    finish(process, 0)
    assert canonical_records(tmp_path) == only(local, "waiting")
