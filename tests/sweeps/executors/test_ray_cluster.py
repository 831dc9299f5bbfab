"""Boards on a Ray cluster: what is refused without one, what a node does, and two real nodes (marked `ray`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import pruneboard
import two_nodes
from distributions import Site
from pruneboard.cli import INTERRUPTED, invoke
from pruneboard.errors import InterruptedRunError, StoreError, UsageError
from pruneboard.experiment import lifecycle
from pruneboard.experiment.prepare import prepare
from pruneboard.records import schema, store
from pruneboard.sweeps.executors import ray_client, ray_cluster, ray_node
from runs import folder, tiny

BOARD = """
title = "tiny"
models = ["test_resnet"]
seeds = 2
[data]
name = "digits"
train = 142
test = 355
classes = 10
side = 8
limit_train = 142
[training]
epochs = 2
batch_size = 32
image_size = 16
[tracks.prune]
sparsities = [0.5]
[tracks.supermask]
sparsities = [0.5]
[[methods]]
name = "dense"
tracks = ["prune"]
[[methods]]
name = "magnitude"
[[methods]]
name = "edge-popup"
[[methods]]
name = "waiting"
[[methods]]
name = "failing"
"""

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

HANG_SECONDS = 300
"""After which something hangs; alone on a machine everything here takes a few seconds."""


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A board of some seconds."""
    path = tmp_path_factory.mktemp("board") / "tiny.toml"
    path.write_text(BOARD)
    return path


# What is refused


def refused(capsys, board, *flags) -> str:
    """The error of a sweep that must not start."""
    assert invoke(["sweep", str(board), "--executor", "ray", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_without_ray_the_package_is_named(board, capsys, monkeypatch):
    """Where Ray is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'pruneboard[ray]'" in refused(capsys, board)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cpus-per-run", "-1"], "0 or more; found -1"),
        (["--cpus-per-run", "nan"], "0 or more; found nan"),
        (["--gpus-per-run", "2"], r"in \[0, 1\].*found 2"),
        (["--cpus-per-run", "0"], "must reserve something"),
        (["--jobs", "2"], "--jobs is about one machine"),
        (["--procs", "2"], "--procs is about one machine"),
        (["--device", "cuda"], "--device is about one machine"),
        (["--dry-run"], "leave --executor ray out"),
        (["--plan-only"], "leave --executor ray out"),
    ],
    ids=" ".join,
)
def test_flags_that_mean_nothing_on_a_cluster_are_refused(board, capsys, flags, said):
    """What cannot be reserved, and what is about one machine, is refused by name before anything is looked at."""
    assert re.search(said, refused(capsys, board, *flags))


@pytest.mark.parametrize("flag", ["--cpus-per-run", "--gpus-per-run"])
def test_flags_of_a_cluster_need_one(board, capsys, flag):
    """A reservation without a cluster is refused, not ignored."""
    assert invoke(["sweep", str(board), flag, "0.5"]) == 2
    assert f"{flag} belongs to --executor ray" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ray://head:10001", "local", "head", "head:", ":6379", "http://head:8265"])
def test_an_address_that_is_none_is_refused(monkeypatch, address):
    """Only the head's HOST:PORT is taken: `local` would start a cluster, and a client's address is another protocol."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match="is not the HOST:PORT"):
        ray_client.address()


def test_an_address_where_nobody_answers_is_refused_at_once(monkeypatch):
    """A cluster that is gone is said to be gone, with what to do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(UsageError, match=r"nobody answers at RAY_ADDRESS=.*ray start --head"):
            ray_client.address()


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        (ConnectionError("use `--address`"), UsageError, "found no Ray cluster: start one with `ray start --head`"),
        (
            RuntimeError("Version mismatch:\n  Ray: 2.9"),
            UsageError,
            "cannot join the cluster: Version mismatch: Ray: 2.9",
        ),
        (SystemExit(15), InterruptedRunError, "stopped by SIGTERM"),
    ],
    ids=["no cluster", "another version", "SIGTERM"],
)
def test_what_ray_says_of_joining_becomes_one_line(monkeypatch, raised, error, said):
    """Ray stands for itself here: no machine can be without a cluster, and have another version's, for sure."""

    def init(**given):
        assert (given["address"], given["log_to_driver"]) == ("auto", False)  # never None, which would start one
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise raised

    before = signal.getsignal(signal.SIGTERM)
    exceptions = SimpleNamespace(RayError=KeyError)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, exceptions=exceptions))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(error, match=said):
        ray_client.connected()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("has", "needs", "room"),
    [
        ({"CPU": 4.0}, {"CPU": 1.0, "GPU": 0.0}, 4),
        ({"CPU": 4.0}, {"CPU": 1.5, "GPU": 0.0}, 2),
        ({"CPU": 0.3}, {"CPU": 0.1, "GPU": 0.0}, 3),
        ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}, 4),
        ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}, 2),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"GPU": 2.0}, {"CPU": 0.0, "GPU": 0.5}, 4),
        ({}, {"CPU": 1.0, "GPU": 0.0}, 0),
    ],
)
def test_a_node_takes_as_many_runs_as_its_scarcest_resource(has, needs, room):
    """Cores and GPUs are counted node by node: what lies on two of them makes no run."""
    assert ray_cluster._room({"Resources": has}, needs) == room


# What a node does


def errand(spec, **changes):
    """What the sweep's machine would send for a run."""
    return replace(ray_cluster._errand(spec, prepare(spec)[0].hash, "cpu"), **changes)


def test_paths_and_recipes_travel(tmp_path, monkeypatch):
    """Data is named by its absolute path, and a recipe of the user's own goes along as text."""
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text("epochs = 1\n")
    spec = tiny("results", data_dir="images", recipe="own.toml", init="first.safetensors")
    sent = ray_cluster._errand(spec, "0" * 64, "cuda")
    assert (sent.spec.data_dir, sent.spec.init) == (str(tmp_path / "images"), str(tmp_path / "first.safetensors"))
    assert (sent.spec.device, sent.recipe) == ("cuda", "epochs = 1\n")
    assert ray_cluster._errand(replace(spec, init="kaiming-normal"), "", "cpu").spec.init == "kaiming-normal"


def test_a_node_answers_with_the_run_as_it_would_be_here(tmp_path):
    """An errand needs no file of the sender's, leaves none behind, and brings back the record of the same run."""
    recipe = tmp_path / "own.toml"
    shipped = Path(pruneboard.__file__).parent / "recipes" / "digits.toml"
    recipe.write_text(shipped.read_text().replace("default_for", "#"))
    spec = tiny(tmp_path / "here", recipe=str(recipe))
    sent = errand(spec)
    expected = lifecycle.run(spec)
    recipe.unlink()
    try:
        answer = ray_node.carry_out(sent, 1)
    finally:
        ray_node._workers(1).stop()
    assert (answer.status, answer.message) == ("done", "")
    assert schema.canonical(json.loads(answer.files[store.RUN])) == schema.canonical(expected)
    for name in (store.WEIGHTS, store.MASK):
        assert answer.files[name] == (folder(tmp_path / "here") / name).read_bytes()
    assert not list(Path(tempfile.gettempdir()).glob(f"pruneboard-*/results/**/*{expected['hash'][:8]}"))


def test_a_node_with_other_code_refuses(tmp_path):
    """A record must not be made by other code than the sweep's: it would be labelled wrongly."""
    sent = errand(tiny(tmp_path))
    other = sent.code | {"code of the method": "0" * 12}
    answer = ray_node.carry_out(replace(sent, code=other), 1)
    assert answer.status == "refused"
    assert "the code of the method on a node" in answer.message


def test_a_node_with_other_data_refuses(tmp_path):
    """Where the content hash is another, the run is not started."""
    with pytest.raises(UsageError, match="another content hash on a node"):
        ray_node._work(errand(tiny(tmp_path), hash="0" * 64), print)


def test_a_node_without_cuda_refuses(tmp_path, monkeypatch):
    """A run that reserved a GPU never trains on the CPU instead."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = tiny(tmp_path)
    with pytest.raises(UsageError, match="its torch sees none"):
        ray_node._work(replace(errand(spec), spec=replace(spec, device="cuda")), print)


def test_a_record_of_another_run_is_not_kept(tmp_path):
    """What a node answers goes where the plan has it, or nowhere."""
    job, _ = prepare(tiny(tmp_path))
    other = lifecycle.record_lost_run(tiny(tmp_path / "other", seed=1), "gone")
    answer = ray_node.Answer("failed", message="gone", files={store.RUN: schema.dumps(other).encode()})
    with pytest.raises(StoreError, match="the record of another run"):
        ray_cluster._keep(job, answer)
    assert not job.folder.exists()


def test_a_failure_of_a_node_becomes_a_row_and_gives_way_to_a_result(tmp_path):
    """A failed run is kept as its record; what comes after it moves that to `failures`."""
    spec = tiny(tmp_path / "here")
    job, _ = prepare(spec)
    failed = lifecycle.record_lost_run(tiny(tmp_path / "there"), "gone")
    answer = ray_node.Answer(
        "failed", message="gone", files={store.RUN: schema.dumps(failed).encode(), "log.txt": b"why"}
    )
    for _ in range(2):
        ray_cluster._keep(job, answer)
    assert store.read(job.folder / store.RUN)["status"] == "failed"
    assert (job.folder / "log.txt").read_bytes() == b"why"
    assert (job.folder / "failures" / "01.json").exists()


# Two real nodes


class Nodes:
    """A cluster of two nodes in a process of its own; `with` it."""

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
        self.place = Path(tempfile.mkdtemp(prefix="two"))  # short: Ray has sockets in it

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
        self.process.wait(HANG_SECONDS)
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.place)

    def kill_the_other(self):
        """End the node that the sweep is not connected to, as a power failure would."""
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"

    def keep_waiting(self):
        """Let runs of `waiting` wait from now on."""
        self.hold.touch()

    def release(self):
        """Let them go on."""
        self.hold.unlink(missing_ok=True)

    def under_way(self):
        """Names of the nodes on which a run has its folder."""
        return {name for name in ("head", "other") if list((self.place / name).glob("pruneboard-*/results/**/.lock"))}

    def sweep(self, board, results, *flags, executor="ray"):
        """Start the real command."""
        command = [sys.executable, "-m", "pruneboard", "sweep", board, "--results", results, "--executor", executor]
        return subprocess.Popen(
            [*map(str, command), *flags],
            env=self.environment | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes that live through several tests."""
    with Nodes(tmp_path_factory.mktemp("nodes")) as started:
        yield started


@pytest.fixture(scope="module")
def local(nodes, board, tmp_path_factory):
    """What the local executor makes of the board."""
    results = tmp_path_factory.mktemp("local")
    done(nodes.sweep(board, results, "--jobs", "2", executor="local"), 1)
    return found(results)


def done(process, code):
    """Wait for a command, which must end with this code; return what it printed."""
    out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == code, err
    return out, err


def found(results):
    """Hash -> what must be equal, of every record below a folder."""
    made = [json.loads(path.read_text()) for path in Path(results).rglob("run.json")]
    return {one["hash"]: schema.canonical(one) for one in made}


def only(records, method):
    """Those of one method."""
    return {key: one for key, one in records.items() if one["method"]["name"] == method}


def until(condition, process):
    """Wait for something to happen while a command runs."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.ray
def test_a_board_is_the_same_on_a_cluster(nodes, board, local, tmp_path):
    """Two nodes make the records of the local executor, failures included, and print nothing but the leaderboard."""
    out, _ = done(nodes.sweep(board, tmp_path, "--json"), 1)
    assert found(tmp_path) == local
    assert {one["status"] for one in only(local, "failing").values()} == {"failed"}
    assert {one["status"] for key, one in local.items() if key not in only(local, "failing")} == {"done"}
    assert json.loads(out)
    assert nodes.under_way() == set()


@pytest.mark.ray
def test_runs_come_back_with_their_files(nodes, board, local, tmp_path):
    """A finished run's folder holds what it would after a local run, and nothing of the way."""
    done(nodes.sweep(board, tmp_path, "--only", "magnitude", "--seeds", "1"), 0)
    names = {path.name for path in folder(tmp_path).iterdir()}
    assert names == {"run.json", "metrics.jsonl", "log.txt", "mask.npz", "model.safetensors"}


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 75)])
def test_a_stopped_sweep_is_completed_by_the_same_command(nodes, board, local, tmp_path, number, code):
    """Ctrl-C and SIGTERM end with their codes, cancel what is under way, and leave the cluster for the next command."""
    nodes.keep_waiting()
    process = nodes.sweep(board, tmp_path, "--only", "waiting")
    until(lambda: nodes.under_way() == {"head", "other"}, process)
    process.send_signal(number)
    nodes.release()
    _, err = done(process, code)
    assert number == signal.SIGINT or "runs under way will start anew: run the same command again" in err
    assert nodes.under_way() == set()
    done(nodes.sweep(board, tmp_path, "--only", "waiting"), 0)
    assert found(tmp_path) == only(local, "waiting")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("# one line more\n", "has other code of pruneboard"),
        ("raise ImportError('no torch')\n", "cannot import pruneboard"),
    ],
    ids=["other code", "broken"],
)
def test_a_node_with_another_pruneboard_is_named_before_anything_runs(board, tmp_path, monkeypatch, added, said):
    """A sweep does not start where a node would make records of other code, or none."""
    monkeypatch.chdir(tmp_path)  # where the command is typed is on the path of Ray's processes
    copy = shutil.copytree(Path(pruneboard.__file__).parent, tmp_path / "copy" / "pruneboard")
    with (copy / "sweeps" / "node.py").open("a") as file:
        file.write(added)
    with Nodes(tmp_path, os.pathsep.join([str(copy.parent), os.environ.get("PYTHONPATH", "")])) as nodes:
        _, err = done(nodes.sweep(board, tmp_path / "results", "--only", "dense"), 2)
    assert re.search(rf"^error: node [\d.]+ of the cluster {said}.*: install the same on every node", err)
    assert not list(tmp_path.glob("results/**/run.json"))


@pytest.mark.ray
def test_the_loss_of_a_node_loses_no_cell(nodes, board, local, tmp_path):
    """What ran on a node that is gone is carried out on another, with the same result."""
    nodes.keep_waiting()
    process = nodes.sweep(board, tmp_path, "--only", "waiting")
    until(lambda: nodes.under_way() == {"head", "other"}, process)
    nodes.kill_the_other()
    nodes.release()
    done(process, 0)
    assert found(tmp_path) == only(local, "waiting")
