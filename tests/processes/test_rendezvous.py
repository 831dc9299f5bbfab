"""Two processes that a launcher started, without a shared results folder: both end, and report the same reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from distributions import Site
from pruneboard.errors import LostPeerError, UsageError
from pruneboard.experiment.prepare import prepare
from pruneboard.processes import rendezvous
from pruneboard.processes.world import World, free_port, local_environments
from runs import tiny

RUN = ["run", "--model", "test_vit", "--sparsity", "0.5", "--limit-train", "142", "--batch-size", "32", "--epochs", "3"]

FAILS_ON_ONE_RANK = """
    import os, signal
    from dataclasses import dataclass
    from pruneboard.api import MaskPruner

    @dataclass(frozen=True, kw_only=True)
    class Thing(MaskPruner):
        def before_step(self, layers, at):
            if at.step == 2 and os.environ["RANK"] == os.environ["ENDS"]:
                if os.environ["HOW"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("only here")
"""
"""A method that fails or kills one process in its third step."""


@pytest.fixture
def two(tmp_path):
    """A function that runs a command as two processes, each with its own results folder."""
    site = Site(tmp_path)

    def start(*arguments, own=("", ""), how="raise", ends="-1"):
        common = os.environ | {"HOW": how, "ENDS": ends, "TMPDIR": str(tmp_path)}
        common["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        started = []
        for rank, variables in enumerate(local_environments(2)):
            command = [sys.executable, "-m", "pruneboard", *RUN, "--results", str(tmp_path / f"host{rank}")]
            command += [*arguments, *own[rank].split()]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            started.append(subprocess.Popen(command, env=common | variables, text=True, **pipes))
        return [(process.wait(), *process.communicate()) for process in started]

    start.site = site
    start.results = tmp_path / "host0"
    return start


def record(results):
    """Return the one record below a results folder."""
    (path,) = results.rglob("run.json")
    return json.loads(path.read_text())


def error_lines(stderr):
    """Return the error lines among a process's output."""
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_rank_0_decides_whether_the_run_is_done(two, tmp_path):
    """Only rank 0 reads the results; if they exist, both processes end without training."""
    first = two("--method", "magnitude", "--json")
    again = two("--method", "magnitude", "--json")
    assert [code for code, _, _ in (*first, *again)] == [0] * 4
    assert again[0][1] == first[0][1]
    assert record(two.results)["engine"]["world_size"] == 2
    assert not list((tmp_path / "host1").rglob("*"))
    assert "epoch" in first[0][2]
    assert "epoch" not in again[0][2]


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(("", "--dataset cifar10 --data-dir nowhere"), marks=pytest.mark.multihost),
        pytest.param(("--config nowhere.toml", ""), marks=pytest.mark.multihost),
        pytest.param(("--results /dev/null/here", ""), marks=pytest.mark.multihost),
    ],
    ids=["data", "config", "results"],
)
def test_an_invalid_request_of_one_process_ends_both(two, own):
    """If one process finds the request invalid before the run, both exit with 2, and the other names that process."""
    found = two("--method", "magnitude", own=own)
    assert [code for code, _, _ in found] == [2, 2]
    finder = 0 if own[0] else 1
    (line,) = error_lines(found[finder][2])
    assert error_lines(found[1 - finder][2]) == [line.replace("error: ", f"error: process {finder}: ")]
    assert not two.results.exists()


@pytest.mark.multihost
def test_different_runs_are_refused(two):
    """Processes with different command lines end with exit code 2 before they train."""
    found = two("--method", "magnitude", own=("--seed 0", "--seed 1"))
    assert [code for code, _, _ in found] == [2, 2]
    assert all("process 1 was given a different run than process 0" in err for _, _, err in found)


@pytest.mark.multihost
@pytest.mark.parametrize("rank", [0, 1])
def test_both_report_the_failure_of_one(two, rank):
    """If one process fails, the record has its reason, and both end with exit code 1."""
    two.site.add("alone", FAILS_ON_ONE_RANK)
    found = two("--method", "thing", ends=str(rank))
    assert [code for code, _, _ in found] == [1, 1]
    made = record(two.results)
    assert made["status"] == "failed"
    assert made["error"]["message"].startswith("process 1: method" if rank else "method")
    assert all("before_step: ValueError: only here" in error_lines(err)[0] for _, _, err in found)


@pytest.mark.parametrize(
    "rank", [pytest.param(0, marks=pytest.mark.multihost), pytest.param(1, marks=pytest.mark.slow)]
)
def test_the_loss_of_one_is_an_interruption(two, rank):
    """If one process is killed, the other exits with 75; if that is rank 0, the record says `interrupted`."""
    two.site.add("alone", FAILS_ON_ONE_RANK)
    found = two("--method", "thing", how="kill", ends=str(rank))
    code, _, err = found[1 - rank]
    assert (found[rank][0], code) == (1, 75)  # the process that watches the killed one reports a failed run
    (line,) = error_lines(err)
    assert line.endswith(": run the same command again")
    assert f"as process {1 - rank} noticed" in line
    if rank:
        assert record(two.results)["status"] == "interrupted"
        assert record(two.results)["error"]["kind"] == "LostPeerError"


@pytest.mark.multihost
def test_after_all_failed_the_next_run_starts(two):
    """If all processes fail at the same point, their connections stay usable, and the other seeds are run."""
    found = two("--method", "magnitude", "--lr", "1e38", "--clip", "0", "--seeds", "2")
    assert [code for code, _, _ in found] == [1, 1]
    made = [json.loads(path.read_text()) for path in two.results.rglob("run.json")]
    assert sorted(one["seed"] for one in made) == [0, 1]
    assert {one["status"] for one in made} == {"diverged"}


@pytest.mark.multihost
def test_under_torchrun_the_record_has_the_reason(tmp_path):
    """If one process fails, torchrun stops the other ones; rank 0 still records the reason of the failed one."""
    Site(tmp_path).add("alone", FAILS_ON_ONE_RANK)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"HOW": "raise", "ENDS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["pruneboard", *RUN, "--method", "thing", "--results", str(tmp_path / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    made = record(tmp_path / "results")
    assert made["status"] == "failed"
    assert made["error"]["message"].startswith("process 1: method")


@pytest.mark.multihost
def test_a_process_that_never_connects(tmp_path):
    """After the timeout a process ends and names the address, the number of processes and the time it waited."""
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    variables |= {"MASTER_PORT": str(free_port()), "PRUNEBOARD_TIMEOUT": "2"}
    command = [sys.executable, "-m", "pruneboard", *RUN, "--method", "magnitude", "--results", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    (line,) = error_lines(done.stderr)
    assert f"process 0 waited 2 s at 127.0.0.1:{variables['MASTER_PORT']}, but not all 2 processes connected" in line
    assert not list(tmp_path.iterdir())


def test_an_address_that_does_not_resolve_is_refused(tmp_path):
    """The error names MASTER_ADDR and its value."""
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "29500"}
    command = [sys.executable, "-m", "pruneboard", *RUN, "--method", "magnitude", "--results", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "MASTER_ADDR=nowhere.invalid cannot be resolved on this host" in error_lines(done.stderr)[0]


LOSSES = [
    "[/x/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:5795. GLHF!",
    "[/x/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.2]:714: Connection reset by peer",
    "[/x/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete",
    "[/x/gloo/transport/tcp/pair.cc:100] Application timeout caused pair closure",
    "NCCL error in: /x/ProcessGroupNCCL.cpp:1, remote process exited or there was a network error, NCCL version 2.27",
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3) ran for 600000 ms before timing out.",
]
OTHERS = [
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "CUDA error: the launch timed out and was terminated",
    "[enforce fail at /x/gloo/transport/tcp/pair.cc:464] op.preamble.length <= op.nbytes. 12 vs 4.",
    "NCCL error in: /x/ProcessGroupNCCL.cpp:1, invalid usage, NCCL version 2.27. Duplicate GPU detected",
]


@pytest.mark.parametrize("message", LOSSES)
def test_a_lost_peer_is_recognized(message):
    """The messages of gloo and NCCL about a lost peer become a `LostPeerError`, which contains no address."""
    with pytest.raises(LostPeerError, match="run the same command again") as caught, rendezvous.detect_lost_peer():
        raise RuntimeError(message)
    assert "10.0.0.2" not in str(caught.value)
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("message", OTHERS)
def test_other_errors_pass_unchanged(message):
    """An error of the model, the device or the method passes as the same object."""
    raised = RuntimeError(message)
    with pytest.raises(RuntimeError) as caught, rendezvous.detect_lost_peer():
        raise raised
    assert caught.value is raised


def test_procs_under_a_launcher_are_refused(tmp_path, monkeypatch):
    """A process that a launcher started cannot start others: `--procs` is refused."""
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--procs 2 starts processes, and a launcher has started 2 already"):
        prepare(tiny(tmp_path, model="test_vit", procs=2))


def test_a_single_process_exchanges_nothing():
    """Without other processes, a value is returned as it is, and an error is its own cause."""
    assert rendezvous.broadcast_from_main(lambda: {"a": [1, None]}) == {"a": [1, None]}
    rendezvous.check_same_run("0" * 64)
    lost = LostPeerError("x")
    assert rendezvous.root_cause(lost) is lost
    assert not rendezvous.is_broken()
    with rendezvous.shared_run(World(0, 1), cuda=False):
        pass
