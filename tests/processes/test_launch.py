"""Several processes on one machine: the same data, the same step, and an end for all when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

from pruneboard.errors import UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.processes import launch
from pruneboard.processes.launch import LocalProcesses
from runs import folder, run, tiny


def weights(results):
    """The folded weights of the one run below `results`."""
    return safetensors.torch.load_file(folder(results) / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "probmask"])
def test_two_processes_train_the_same_network(tmp_path, method):
    """Without batch statistics, 20 steps on two processes end within 1e-5 of one process, relative to each tensor."""
    options = {"model": "test_vit", "limit_train": 142, "overrides": {"epochs": 5, "lr": 0.01}}
    one = run(tmp_path / "one", method, **options)
    two = run(tmp_path / "two", method, procs=2, **options)
    assert one["budget"]["steps"] == 20
    assert two["engine"]["world_size"] == 2
    assert one["hash"] == two["hash"]
    assert one["data"]["order_sha256"] == two["data"]["order_sha256"]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        assert float((a[name] - b[name]).norm()) <= 1e-5 * float(a[name].norm()) + 1e-7, name


@pytest.mark.slow
def test_first_step_is_the_same_with_batch_normalization(tmp_path):
    """At equal norm_batch the images normalized together are the same groups, so the first step is the same."""
    options = {"limit_train": 50, "overrides": {"epochs": 1, "norm_batch": 16}}
    one = run(tmp_path / "one", "dense", None, **options)
    two = run(tmp_path / "two", "dense", None, procs=2, **options)
    assert one["budget"]["steps"] == 1
    assert (one["engine"]["accumulation"], two["engine"]["accumulation"]) == (2, 1)
    assert one["data"]["order_sha256"] == two["data"]["order_sha256"]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    learned = [name for name in a if "running" not in name and "num_batches" not in name]
    for name in learned:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def _fails(rank_that_fails, how):
    rank = int(os.environ["RANK"])
    if rank == rank_that_fails:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        from pruneboard.errors import AuditError

        raise AuditError("this one")
    time.sleep(60)


@pytest.mark.parametrize(("how", "kind"), [("raise", "AuditError"), ("kill", "InterruptedRunError")])
def test_one_failure_ends_all(how, kind):
    """A process that fails or is killed ends the others at once, and its reason is the one that is told."""
    with pytest.raises(Exception, match="this one" if how == "raise" else "process 1 was lost") as caught:
        LocalProcesses(_fails, (1, how), 2).result()
    assert type(caught.value).__name__ == kind


def _notices(how, there):
    """The first process says that a peer is lost before that one has said why."""
    from pruneboard.errors import DataError, LostPeerError

    if os.environ["RANK"] == "0":
        while not there.exists():
            time.sleep(0.01)
        raise LostPeerError("a process was lost")
    there.touch()
    time.sleep(1.5 * launch.GRACE_SECONDS)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise DataError("corrupt.png does not decode")


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [("raise", "DataError", "corrupt.png"), ("kill", "InterruptedRunError", r"process 1 was lost \(exit code -9\)")],
)
def test_reason_comes_before_what_others_noticed(tmp_path, how, kind, message):
    """A process that only saw another one go does not hide why it went, though it speaks first."""
    with pytest.raises(Exception, match=message) as caught:
        LocalProcesses(_notices, (how, tmp_path / "there"), 2).result()
    assert type(caught.value).__name__ == kind


@pytest.mark.slow
def test_failure_in_a_process_is_one_line_and_its_traceback_is_logged(tmp_path):
    """With two processes a failed run prints one error line and one JSON document; the traceback is in log.txt."""
    command = [
        sys.executable,
        "-m",
        "pruneboard",
        "run",
        "--method",
        "magnitude",
        "--model",
        "test_vit",
        "--procs",
        "2",
    ]
    command += ["--sparsity", "0.5", "--lr", "1e38", "--clip", "0", "--limit-train", "142", "--batch-size", "32"]
    done = subprocess.run([*command, "--json", "--results", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "diverged"
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "diverged"
    assert "Traceback" in (folder(tmp_path) / "log.txt").read_text()


def test_children_die_with_their_parent(tmp_path):
    """Kill -9 of the parent leaves no process behind."""
    command = [sys.executable, "-m", "pruneboard", "run", "--method", "random", "--model", "test_vit", "--sparsity"]
    command += ["0.5", "--procs", "2", "--epochs", "500", "--results", str(tmp_path), "--batch-size", "32"]
    command += ["--limit-train", "142"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        for line in parent.stderr:
            if "epoch" in line:
                break
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while alive := subprocess.run(
        ["pgrep", "-g", str(parent.pid)], capture_output=True, text=True, check=False
    ).stdout.split():
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def test_refused_number_of_processes_names_the_one_that_works(tmp_path):
    """Splitting images that are normalized together is refused with the flag that would allow it."""
    with pytest.raises(UsageError, match="--norm-batch 16"):
        prepare(tiny(tmp_path, procs=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_is_used_as_it_is(tmp_path):
    """Under torchrun each process finds its place in the environment, and the first alone writes and speaks."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "pruneboard",
    ]
    command += ["run", "--method", "magnitude", "--model", "test_vit", "--sparsity", "0.5", "--epochs", "1"]
    command += ["--limit-train", "71", "--batch-size", "32", "--json", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["engine"]["world_size"] == 2
    assert json.loads((folder(tmp_path) / "run.json").read_text()) == json.loads(done.stdout)
