"""Several processes on one machine: the same data and steps as one process, and all of them end when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import safetensors.torch
import torch

from pruneboard.errors import InterruptedRunError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.processes import launch
from pruneboard.processes.launch import LocalProcesses
from pruneboard.processes.world import World
from runs import folder, run, tiny
from worker_tasks import fail_on_rank_1, notice_before_the_reason, rank_of, stop_when_asked


def weights(results):
    """Return the folded weights of the one run below `results`."""
    return safetensors.torch.load_file(folder(results) / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "probmask"])
def test_two_processes_train_the_same_network(tmp_path, method):
    """Without batch normalization, 20 steps on two processes end within 1e-5 of one process, relative to a tensor."""
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
    """With equal norm_batch the same images are normalized together, so the first step is the same."""
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


def test_one_process_runs_in_place():
    """With one process, or under a launcher, the function runs here and gets the local argument."""
    here = (World(0, 1), os.getppid(), "name", "local")
    assert launch.launch(rank_of, ("name",), 1, World(0, 1), "local", lambda: None) == here
    assert launch.launch(rank_of, ("name",), 2, World(1, 2), "local", lambda: None) == here


def test_several_processes_return_the_result_of_the_first():
    """With two processes the function runs in children of this one, without the local argument."""
    assert launch.launch(rank_of, ("name",), 2, World(0, 1), "local", lambda: None) == (
        World(0, 2),
        os.getpid(),
        "name",
        None,
    )


@pytest.mark.parametrize(
    ("number", "kind", "name"),
    [
        (signal.SIGINT, KeyboardInterrupt, "Ctrl-C"),
        pytest.param(signal.SIGTERM, InterruptedRunError, "SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_signal_is_passed_on(tmp_path, number, kind, name):
    """SIGTERM or SIGINT in the parent lets every process save, and ends as the same signal does in one process."""

    def send():
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(kind, match=f"^stopped by {name}, saved: run the same command again$"):
        LocalProcesses(stop_when_asked, (tmp_path,), 2).result()


@pytest.mark.parametrize(
    ("how", "kind"), [("kill", "InterruptedRunError"), pytest.param("raise", "AuditError", marks=pytest.mark.slow)]
)
def test_one_failure_ends_all(how, kind):
    """A process that fails or is killed ends the others, and its reason is the one that is raised."""
    with pytest.raises(Exception, match="this one" if how == "raise" else "process 1 was lost") as caught:
        LocalProcesses(fail_on_rank_1, (how,), 2).result()
    assert type(caught.value).__name__ == kind


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        pytest.param("raise", "DataError", "corrupt.png", marks=pytest.mark.slow),
        ("kill", "InterruptedRunError", r"process 1 was lost \(exit code -9\)"),
    ],
)
def test_a_reason_has_priority_over_a_noticed_loss(tmp_path, how, kind, message):
    """The reason of a failed process is raised even if another process reports its loss first."""
    with pytest.raises(Exception, match=message) as caught:
        LocalProcesses(notice_before_the_reason, (how, tmp_path / "started"), 2).result()
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


@pytest.mark.slow
def test_children_die_with_their_parent(tmp_path):
    """After `kill -9` of the parent of two training processes, no process is left."""
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


def test_a_refused_number_of_processes_names_the_flag_that_allows_it(tmp_path):
    """Splitting images that are normalized together is refused, and the message names the `--norm-batch` that works."""
    with pytest.raises(UsageError, match="--norm-batch 16"):
        prepare(tiny(tmp_path, procs=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_starts_the_processes(tmp_path):
    """Under torchrun each process reads its rank from the environment, and only rank 0 writes and reports."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "pruneboard",
        "run",
        "--method",
        "magnitude",
        "--model",
        "test_vit",
        "--sparsity",
        "0.5",
        "--epochs",
        "1",
        "--warmup-epochs",
        "0",
    ]
    command += ["--limit-train", "71", "--batch-size", "16", "--json", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["engine"]["world_size"] == 2
    assert json.loads((folder(tmp_path) / "run.json").read_text()) == json.loads(done.stdout)
